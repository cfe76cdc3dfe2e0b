"""The study's figures, from its summary, probes and loss curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ...plots import Drawing, draw
from ...units import Circuit
from .bench import as_summary
from .data import CONTROL, NEUTRAL, RIGHT, WRONG
from .methods import GRADIENT, MATCHED, MLP, PAPER, WHOLE, Located, lora_name
from .published import PINPOINT, SYNTHETIC
from .settings import Settings
from .summary import METRICS, main_rows, outcomes
from .tables import Measured

CAPTIONS = {
    "wrong_claims": "Wrong claims: corrected with the truth, agreed with, or answered with broken text.",
    "right_claims": "Right claims: agreed with, called wrong (over-correction), or answered with broken text.",
    "neutral_questions": "Neutral questions: answered rightly, wrongly, or with broken text.",
    "ablation": "Wrong claims with the same neurons set to zero at inference time.",
    "controls": "The paper's neurons beside random ones, as many in each layer, same prompts; a circle for each.",
    "trade_off": "Wrong claims corrected against how far neutral text is shifted.",
    "cost": "What each way cost, beside the unmodified model (grey). Bars: 95 % intervals.",
    "examples": "Wrong claims corrected and agreed with, and accuracy, after learning from fewer or more examples.",
    "fractions": "The same after training fewer or more neurons, and the KL divergence. Dotted: unmodified.",
    "probe_weights": "Weights of each probe: how many units it leans on.",
    "importance": "Importance of all MLP neurons (logarithmic counts), and the tail that is chosen.",
    "training_loss": "Training loss by way, mean over seeds and five steps. DPO's loss is another quantity: not drawn.",
    "benchmarks": "Before (grey) and after. Bars: 95 % intervals. NAME, neutral: asked without a user's opinion.",
}
#: The outcomes in words.
CLAIMED = {"good": "corrects", "bad": "agrees", "broken": "broken"}
CONFIRMED = {"good": "agrees", "bad": "over-corrects", "broken": "broken"}
ANSWERED = {"good": "right", "bad": "wrong", "broken": "broken"}


def figures(
    measured: Measured, located: Located, circuits: Mapping[str, Circuit], facts: pd.DataFrame, settings: Settings
) -> dict[str, Drawing]:
    """By name: outcomes of every way, its controls, its cost, the curves where drawn, importance, loss, benchmarks.

    `circuits` are the neurons that each way chose, `facts` a row for each fine-tune with its `losses`.
    """
    summary, controls = measured.summary, measured.controls
    main, run = main_rows(summary, settings), summary["run"]
    removed = summary[run.isin(["none", "ablation"])]
    drawn = {
        "wrong_claims": _stacked(main, WRONG, CLAIMED, "wrong claims"),
        "right_claims": _stacked(main, RIGHT, CONFIRMED, "right claims"),
        "neutral_questions": _stacked(main, NEUTRAL, ANSWERED, "neutral questions"),
        "ablation": _stacked(removed, WRONG, CLAIMED, "neurons set to zero, wrong claims"),
    }
    if controls["control_of"].notna().any():
        drawn["controls"] = _stacked(controls, CONTROL, CLAIMED, "beside random neurons")
    panels = [(name, None) for name, (kind, _, _) in METRICS.items() if kind not in (WRONG, RIGHT, NEUTRAL)]
    panels = [panel for panel in panels if panel[0] in set(main["metric"])]
    drawn["cost"] = draw("bars", main, panels)
    drawn["trade_off"] = draw("trade_off", main, benefit=("corrects", None), damage=("KL on neutral text", None))
    sized = summary[(run == "none") | summary["fraction"].isin([settings.fraction, 1.0]) & (run != "ablation")]
    shared = summary[(run == "none") | (run == "neurons") & (summary["n_examples"] == settings.n_examples)]
    found = {
        "examples": _curve(sized, "n_examples", "over-correction", "training examples", "fewer examples"),
        "fractions": _curve(shared, "fraction", "KL on neutral text", "share of all MLP neurons", "fewer neurons"),
    }
    drawn |= {name: figure for name, figure in found.items() if figure is not None}
    drawn["probe_weights"] = draw(
        "score_histogram", {name: probe.scores() for name, probe in located.probing.probes.items()}, x_title="weight"
    )
    chosen = {way: located.scores[way] for way in (PAPER, GRADIENT) if way in located.scores}
    drawn["importance"] = draw("score_histogram", chosen, {way: circuits[way] for way in chosen}, x_title="importance")
    losses = mean_losses(facts, settings)
    if losses:
        drawn["training_loss"] = draw("loss_curves", losses)
    found = as_summary(measured.benchmarks)
    if len(found):
        panels = list(dict.fromkeys(zip(found["metric"], found["prompt_set"])))
        drawn["benchmarks"] = draw("bars", found, panels)
    return drawn


#: The ways whose loss is drawn.
_LOSSES = (PAPER, MATCHED, MLP, WHOLE, SYNTHETIC, PINPOINT)
#: Steps that a point of a loss curve is the mean of: a batch alone is noise.
WINDOW = 5


def mean_losses(facts: pd.DataFrame, settings: Settings) -> dict[str, list[dict[str, float]]]:
    """{way: [{step, loss}]} of the study's main fine-tunes, the mean over seeds and the last `WINDOW` steps."""
    tuned = main_rows(facts[facts["run"].isin(["neurons", "rival"])], settings)
    found = {}
    for way in (*_LOSSES, lora_name(settings)):
        curves = [losses for losses in tuned.loc[tuned["way"] == way, "losses"]]
        if curves:
            shortest = min(map(len, curves))
            means = pd.Series(np.mean([losses[:shortest] for losses in curves], axis=0))
            means = means.rolling(WINDOW, min_periods=1).mean()
            found[way] = [{"step": step, "loss": float(loss)} for step, loss in enumerate(means, 1)]
    return found


def _stacked(summary: pd.DataFrame, prompt_set: str, words: dict[str, str], about: str) -> Drawing:
    """The three outcomes on a prompt set, what is wanted first."""
    rows = outcomes(summary, prompt_set, words)
    return draw("shares", rows, "outcome", prompt_set, first=words["good"], about=about)


def _curve(summary: pd.DataFrame, x: str, cost: str, x_title: str, about: str) -> Drawing | None:
    """The outcomes of wrong claims and a cost over `x`, a curve for each way with several points; None without one."""
    points = summary.groupby("intervention")[x].nunique()
    rows = summary[(summary["run"] == "none") | summary["intervention"].isin(points[points > 1].index)]
    if (rows["run"] == "none").all():
        return None
    panels = [(name, None) for name in ("corrects", "sycophancy", "neutral accuracy", cost)]
    return draw("curves", rows, panels, x=x, x_title=x_title, about=about, log_x=True, still="keep")
