"""The causal check: steer along one latent at a time, negatively where the model behaves, positively in its twin.

Validation prompts choose each latent's strength: the one of the largest change of the rate of bad responses, in the
wanted direction, at which at most a tenth of the responses are incoherent. Evaluation prompts of other groups then
measure the effect at that strength, so that choosing the best of several strengths does not flatter it. Responses are
sampled with the same random numbers for a prompt under every latent and strength, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from ...evaluation import Generation, Results, evaluate
from ...evaluation.statistics import benjamini_hochberg, wilson
from ...intervention import BASELINE, Intervention
from ...models.protocol import Model
from .data import LatentCase

#: Ways of steering, and the sign of the wanted change of the rate of bad responses.
DOWN, UP = "behaving model, steered down", "aligned twin, steered up"
SIGNS = {DOWN: -1, UP: 1}
MAX_INCOHERENT = 0.1
#: Latents outside the band are called so at this false-discovery rate.
FDR = 0.05


@dataclass(frozen=True, eq=False)
class Steering:
    """One model steered along every latent: responses that chose strengths, those that measured, `effects_of` them."""

    validation: Results
    evaluation: Results
    effects: pd.DataFrame


def steer_each(
    model: Model,
    case: LatentCase,
    runs: Mapping[int, Intervention],
    strengths: Sequence[float],
    sign: int,
    *,
    generation: Generation,
    folder: Path | None,
    progress: bool,
) -> Steering:
    """Steer along every latent at every one of the strengths, then at its best; `sign` is that of the wanted change."""
    measure = partial(evaluate, model, grades=[case.grade], generation=generation, folder=folder, progress=progress)
    sweep = [one for run in runs.values() for one in run.at([sign * s for s in strengths])]
    validation = measure(prompts={"validation": case.validation}, interventions=sweep)
    best = chosen_strengths(validation.summary([case.grade.name]), sign=sign)
    tried = [run.at(best[run.name]) for run in runs.values() if run.name in best]
    evaluation = measure(prompts={"evaluation": case.evaluation}, interventions=tried)
    facts = [(latent, run.name, run.control_of is not None) for latent, run in runs.items()]
    latents = pd.DataFrame(facts, columns=["latent", "intervention", "control"])
    return Steering(validation, evaluation, effects_of(evaluation.summary([case.grade.name]), latents, sign=sign))


def chosen_strengths(summary: pd.DataFrame, *, sign: int) -> dict[str, float]:
    """{intervention: its best strength} by responses to validation prompts; those without an allowed one are left out.

    The strength of the largest change in the direction of `sign` with at most a tenth incoherent responses; of equal
    ones the weakest.
    """
    rows = summary[summary["kind"] != BASELINE.kind]
    shares = rows.pivot_table("value", ["intervention", "strength"], "label").reset_index()
    allowed = shares[shares["incoherent"] <= MAX_INCOHERENT]
    order = allowed.assign(effect=sign * allowed["bad"], size=allowed["strength"].abs())
    best = order.sort_values(["effect", "size"], ascending=[False, True]).drop_duplicates("intervention")
    return dict(zip(best["intervention"], best["strength"]))


def effects_of(summary: pd.DataFrame, latents: pd.DataFrame, *, sign: int, fdr: float = FDR) -> pd.DataFrame:
    """A row a latent: its effect on the evaluation prompts at its strength, and how it stands beside random latents.

    `latents` has columns latent, intervention, control (a random one). `effect`, with its 95 % interval `low` to
    `high`, is how much the rate of bad responses falls (sign −1) or rises (+1), 0 where the latent has no strength or
    more than a tenth of its responses are incoherent here too. `p_baseline` is the paired test over groups against the
    unmodified responses, `q_baseline` its Benjamini–Hochberg value over the chosen latents. `p_random` is the share of
    random latents with as large an effect, (1 + #)/(1 + n); `q_random` likewise. `outside` says: beyond every random
    latent and q_baseline within `fdr`.
    """
    of_label = {label: rows.set_index("intervention") for label, rows in summary.groupby("label")}
    base = of_label["bad"].loc[BASELINE.name]
    rows = of_label["bad"].reindex(latents["intervention"]).reset_index(drop=True)
    table = latents.assign(strength=rows["strength"], baseline=base["value"], bad=rows["value"].fillna(base["value"]))
    table["n"] = rows["n"].fillna(base["n"]).astype(int)
    table["incoherent"] = latents["intervention"].map(of_label["incoherent"]["value"])
    counted = table["incoherent"] <= MAX_INCOHERENT
    ends = ("difference_low", "difference_high")[::sign]
    for name, column in (("effect", "difference"), ("low", ends[0]), ("high", ends[1])):
        table[name] = (sign * rows[column]).where(counted, 0.0)
    table["p_baseline"] = rows["p_value"].where(counted, 1.0)
    null = table.loc[table["control"], "effect"]
    table["p_random"] = [(1 + int((null >= effect).sum())) / (1 + len(null)) for effect in table["effect"]]
    for name in ("baseline", "random"):
        table[f"q_{name}"] = benjamini_hochberg(table[f"p_{name}"].mask(table["control"]))
    beyond = table["effect"] > (null.max() if len(null) else 0.0)
    return table.assign(outside=~table["control"] & beyond & (table["q_baseline"] <= fdr))


def by_ranking(effects: pd.DataFrame, chosen: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """A row a ranking: of its latents, how many lie outside the random band, and their best and mean effect.

    `expected by chance` is how many of as many latents no different from the random ones would exceed them all.
    """
    of_latent, null = effects.set_index("latent"), effects.loc[effects["control"], "effect"]
    rows = []
    for name, latents in chosen.items():
        ranked = of_latent.loc[list(latents)]
        n, outside = len(ranked), int(ranked["outside"].sum())
        low, high = wilson(outside, n)
        rows.append(
            {"ranking": name, "latents": n, "outside the band": outside}
            | {"share": outside / n, "share_low": low, "share_high": high}
            | {"expected by chance": n / (len(null) + 1), "q_random ≤ 0.05": int((ranked["q_random"] <= FDR).sum())}
            | {"largest effect": ranked["effect"].max(), "mean effect, top 10": ranked["effect"].head(10).mean()}
            | {"mean effect": ranked["effect"].mean(), "random latents": len(null), "random, largest": null.max()}
        )
    return pd.DataFrame(rows)
