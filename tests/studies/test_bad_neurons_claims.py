"""Claims reach every outcome on made-up summaries, and pooling over seeds agrees with a count by hand."""

import pandas as pd
import pytest
import torch

from mechsurgery.attribution.probes import fit_probe_on
from mechsurgery.evaluation import Results
from mechsurgery.evaluation.statistics import clustered_interval
from mechsurgery.evaluation.table import typed
from mechsurgery.grading.quality import ANSWERS
from mechsurgery.studies.bad_neurons import Settings
from mechsurgery.studies.bad_neurons.claims import as_good, best, better, claims
from mechsurgery.studies.bad_neurons.data import RIGHT, WRONG
from mechsurgery.studies.bad_neurons.figures import figures
from mechsurgery.studies.bad_neurons.methods import MLP, PAPER, RANDOM
from mechsurgery.studies.bad_neurons.summary import compared, summarise_ways
from mechsurgery.studies.bad_neurons.tables import wide

HELD, FAILED, UNDECIDED, UNMEASURED = "held", "did not hold", "undecided", "not measurable"


def row(rival="other", difference=0.0, half=0.02, p=1.0, baseline=0.3, run="neurons"):
    value = baseline + difference
    return pd.Series(
        {
            "rival": rival,
            "run": run,
            "metric": "sycophancy",
            "scale": "rate",
            "n": 100,
            "value": value,
            "low": value - half,
            "high": value + half,
            "baseline": baseline,
            "difference": difference,
            "difference_low": difference - half,
            "difference_high": difference + half,
            "p_value": p,
        }
    )


@pytest.mark.parametrize(
    ("difference", "less", "as_much"),
    [(-0.1, HELD, HELD), (0.0, UNDECIDED, HELD), (0.04, FAILED, UNDECIDED), (0.1, FAILED, FAILED)],
)
def test_a_rival_is_beaten_or_matched_by_the_paired_interval(difference, less, as_much):
    assert better(row(difference=difference)).verdict == less
    assert as_good(row(difference=difference)).verdict == as_much
    assert f"{100 * difference:+.1f} points" in better(row(difference=difference)).measured


def test_the_best_of_those_tried_needs_a_test_against_the_next_best():
    far = row("far", -0.2, baseline=0.5)
    assert best(pd.DataFrame([far, row("near", -0.05, baseline=0.35)])).verdict == HELD
    assert best(pd.DataFrame([far, row("near", -0.01, baseline=0.31)])).verdict == UNDECIDED
    ahead = row("ahead", 0.1, baseline=0.2, p=0.02)
    assert best(pd.DataFrame([far, ahead])).verdict == FAILED
    # The best of five is ahead by chance more often than one is: p = 0.02 is not enough there.
    assert best(pd.DataFrame([far, far, far, far, ahead])).verdict == UNDECIDED


def made_up(before, after, half=0.02):
    """A summary of the paper's way alone, {metric: value} before and after."""
    rows = []
    for metric, value in after.items():
        found = row(difference=value - before[metric], half=half, baseline=before[metric])
        rows.append(found.drop(["rival", "run"]).to_dict() | {"metric": metric, "intervention": PAPER})
    return pd.DataFrame(rows)


BEFORE = {"sycophancy": 0.9, "neutral accuracy": 0.95, "multiple choice": 0.9, "over-correction": 0.05}
RIVALS = [row(RANDOM, -0.3), row(MLP, 0.0, run="rival")]


@pytest.mark.parametrize(
    ("after", "half", "verdicts"),
    [
        ((0.1, 0.95, 0.9, 0.05), 0.005, [HELD] * 4),
        ((0.9, 0.80, 0.7, 0.30), 0.02, [FAILED] * 4),
        ((0.45, 0.94, 0.89, 0.1), 0.02, [UNDECIDED] * 4),
    ],
)
def test_the_paper_s_claims_have_three_outcomes(after, half, verdicts):
    table = claims(made_up(BEFORE, dict(zip(BEFORE, after)), half), pd.DataFrame(RIVALS), Settings())
    assert table["verdict"].tolist() == [*verdicts, HELD, HELD, HELD]
    assert "margin 1.0 %" in table["measured"][1]
    assert "margin 5.0 %" in table["measured"][3]


def test_without_sycophancy_or_without_an_autoencoder_nothing_is_measured():
    none = dict(BEFORE, sycophancy=0.02)
    table = claims(made_up(none, none), pd.DataFrame(RIVALS), Settings()).set_index("claim")["verdict"]
    assert (table.iloc[[0, 4, 5, 6]] == UNMEASURED).all()
    nothing = claims(made_up(BEFORE, BEFORE).assign(intervention="other"), pd.DataFrame(), Settings())
    assert nothing["verdict"].tolist() == [UNMEASURED]


def long_table(answers):
    """Results and facts from {intervention: (way, seed, labels of the prompts a, b, c)}; None is the baseline."""
    rows, facts = [], []
    for name, (way, seed, labels) in answers.items():
        kind = {"kind": "baseline", "strength": 0.0} if way is None else {"kind": "weights", "strength": 1.0}
        for i, label in enumerate(labels):
            for prompt_set in (WRONG, RIGHT):
                place = {"prompt_set": prompt_set, "prompt_id": "abc"[i], "group": "xxy"[i]}
                rows.append(
                    {"intervention": name, **kind, **place, "metric": "outcome", "scale": "label", "label": label}
                )
        if way is not None:
            own = {"intervention": name, "way": way, "run": "neurons", "run_seed": seed}
            facts.append({**own, "n_examples": 300, "fraction": 0.03, "n_weights": 7})
    table = pd.DataFrame(rows).assign(
        model="m", fingerprint="f", seed=0, control_of=None, m=None, toward=0.0, response=""
    )
    return Results(typed(table), {"labels": {"outcome": list(ANSWERS)}}), pd.DataFrame(facts)


ANSWERED = {
    "baseline": (None, 0, ["bad", "bad", "bad"]),
    "p0": (PAPER, 0, ["bad", "good", "broken"]),
    "p1": (PAPER, 1, ["good", "good", "good"]),
    "r0": (RANDOM, 0, ["bad", "bad", "good"]),
    "r1": (RANDOM, 1, ["bad", "bad", "bad"]),
}


def test_seeds_are_pooled_and_intervals_are_over_groups():
    results, facts = long_table(ANSWERED)
    summary = summarise_ways(results, facts)
    paper = summary[summary["intervention"] == PAPER].set_index("metric")
    one = paper.loc["sycophancy"]
    assert (one["value"], one["baseline"], one["n"], one["seeds"]) == (pytest.approx(1 / 6), 1.0, 6, 2)
    expected = clustered_interval([1, 0, 0, 0, 0, 0], list("xxyxxy"))
    assert (one["low"], one["high"]) == pytest.approx(expected)
    assert paper.loc["corrects", "value"] == pytest.approx(4 / 6)
    assert (paper.loc["broken", "value"], paper.loc["broken", "n"]) == (pytest.approx(2 / 12), 12)
    base = summary[summary["run"] == "none"].set_index("metric").loc["sycophancy"]
    assert (base["value"], base["n"]) == (1.0, 3)
    shown = wide(summary, ["n_examples"]).set_index("way")
    assert shown.loc[PAPER, "sycophancy"].startswith("16.7 [")
    assert shown.loc["unmodified", "n_examples"] == 0


def test_figures_show_curves_of_ways_with_several_points():
    results, facts = long_table(ANSWERED)
    wider, again = results.table.assign(intervention=results.table["intervention"] + "+"), facts.copy()
    again["intervention"], again["n_examples"] = again["intervention"] + "+", 600
    both = Results(pd.concat([results.table, wider[wider["kind"] != "baseline"]]), results.info)
    summary = summarise_ways(both, pd.concat([facts, again]))
    features = {"blocks.0.mlp.hook_post": torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 8)}
    probe = fit_probe_on(features, [1, 0] * 8, [str(i) for i in range(16)], strengths=(1.0,))
    drawn = figures(summary, {"probe": probe}, {PAPER: [{"step": 1, "loss": 2.0}]}, Settings())
    assert set(drawn) == {"cure_and_cost", "examples", "probe_weights", "training_loss"}
    lines = [trace for trace in drawn["examples"].data if trace.name == PAPER]
    assert list(lines[0].x) == [300, 600]


def test_a_rival_is_compared_on_the_same_prompts_with_the_same_seed():
    results, facts = long_table(ANSWERED)
    (one,) = compared(results, facts, Settings(seeds=2)).to_dict("records")
    assert (one["rival"], one["n"], one["groups"]) == (RANDOM, 6, 2)
    assert (one["value"], one["baseline"]) == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert one["difference"] == pytest.approx(-4 / 6)
