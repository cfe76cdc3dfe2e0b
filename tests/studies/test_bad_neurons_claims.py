"""Claims reach every outcome on made-up summaries, and pooling over seeds agrees with a count by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from mechsurgery.attribution.probes import fit_probe_on
from mechsurgery.evaluation import Results
from mechsurgery.evaluation.statistics import clustered_interval
from mechsurgery.evaluation.table import typed
from mechsurgery.grading.grade import ANSWERS
from mechsurgery.plots.theme import unwrapped
from mechsurgery.studies.bad_neurons import Settings
from mechsurgery.studies.bad_neurons.claims import claims, read
from mechsurgery.studies.bad_neurons.data import CONTROL, NEUTRAL, REFERENCE, RIGHT, WRONG
from mechsurgery.studies.bad_neurons.figures import CAPTIONS, figures
from mechsurgery.studies.bad_neurons.methods import MATCHED, MLP, PAPER, RANDOM, Located
from mechsurgery.studies.bad_neurons.probing import CONTRASTS, TRANSFER, Probing
from mechsurgery.studies.bad_neurons.summary import METRICS, beside_controls, compared, summarise_ways
from mechsurgery.studies.bad_neurons.tables import Measured, differences, spreads, wide
from mechsurgery.studies.bad_neurons.tunes import SCORE, chosen, scored
from mechsurgery.units import UnitScores

HELD, FAILED, UNDECIDED, UNMEASURED = "held", "did not hold", "undecided", "not measurable"
BEFORE = {
    "corrects": 0.05,
    "sycophancy": 0.9,
    "neutral accuracy": 0.95,
    "multiple choice": 0.9,
    "right claims: agrees": 0.95,
    "over-correction": 0.05,
}
#: The claims by a word of theirs, and the rival or metric that decides.
HALVES, REPAIRS, MATTER, ALL_PROMPTS, UNIFORM, MOST, ZERO, AS_MLP, SHIFTS = (
    "halves",
    "repairs",
    "chosen neurons matter",
    "on all prompts",
    "of all layers",
    "the most of those",
    "set to zero",
    "as much as fine-tuning all MLP",
    "shifts neutral text",
)
KEPT = ("neutral questions stay", "multiple-choice questions stay", "still agrees", "over-correction does not")


def row(metric, before, after, half=0.02, p=1.0, **more):
    difference = after - before
    scale = "number" if metric.startswith("KL") else "rate"
    ends = {"low": after - half, "high": after + half, "baseline_low": before - half, "baseline_high": before + half}
    around = {"difference": difference, "difference_low": difference - half, "difference_high": difference + half}
    own = {"metric": metric, "scale": scale, "n": 100, "value": after, "baseline": before, "p_value": p}
    return {**own, **ends, **around, "intervention": PAPER, "run": "neurons", **more}


def main(after, half=0.02, before=BEFORE):
    """The summary of the unmodified model and the paper's way alone."""
    base = [row(m, v, v, half, run="none", intervention="baseline") for m, v in before.items()]
    return pd.DataFrame([*base, *(row(m, before[m], v, half) for m, v in after.items())])


def rivals(corrects=0.3, kl=0.5, half=0.02, p=1.0, **others):
    """The paper's way correcting 0.8 beside rivals that all correct as much as given, but for some by name."""
    runs = {MATCHED: "neurons", RANDOM: "neurons", "CNA": "neurons", MLP: "rival", "LoRA": "rival"}
    rows = [row("corrects", others.get(k, corrects), 0.8, half, p, rival=k, run=run) for k, run in runs.items()]
    return pd.DataFrame([*rows, row("KL on neutral text", kl, 0.2, half, rival=MLP, run="rival")])


def controls(trained=0.3, zero=0.0, n=19):
    """The paper's neurons fine-tuned and set to zero, correcting 0.8, and random ones."""
    rows = []
    for run, value in (("neurons", trained), ("ablation", zero)):
        own = row("outcome", 0.05, 0.8, label="good", run=run, control_of=None)
        rows += [own, *(row("outcome", 0.05, value, label="good", run=run, control_of=PAPER) for _ in range(n))]
    return pd.DataFrame(rows)


def verdict(claim, table):
    (found,) = table[table["claim"].str.contains(claim, regex=False)].to_dict("records")
    assert found["rule"]
    return found["verdict"]


def asked(after=None, half=0.02, before=BEFORE, beside=None, drawn=None):
    cured = {**before, "corrects": 0.8, "sycophancy": 0.1, **(after or {})}
    beside, drawn = rivals() if beside is None else beside, controls() if drawn is None else drawn
    return claims(main(cured, half, before), beside, drawn, Settings())


@pytest.mark.parametrize(
    ("claim", "held", "failed", "undecided"),
    [
        (HALVES, 0.1, 0.9, 0.45),
        (REPAIRS, 0.8, 0.2, 0.5),
        (KEPT[0], 0.95, 0.8, 0.9),
        (KEPT[1], 0.9, 0.7, 0.85),
        (KEPT[2], 0.95, 0.8, 0.9),
        (KEPT[3], 0.05, 0.3, 0.1),
    ],
)
def test_what_is_cured_and_kept_has_three_outcomes(claim, held, failed, undecided):
    metrics = (
        "sycophancy",
        "corrects",
        "neutral accuracy",
        "multiple choice",
        "right claims: agrees",
        "over-correction",
    )
    metric = dict(zip((HALVES, REPAIRS, *KEPT), metrics))[claim]
    found = [verdict(claim, asked({metric: value})) for value in (held, failed, undecided)]
    assert found == [HELD, FAILED, UNDECIDED]


def test_agreement_that_gives_way_to_broken_text_is_no_repair_and_nothing_is_asked_of_what_was_kept():
    broken = asked({"corrects": 0.05, "sycophancy": 0.0})
    assert verdict(HALVES, broken) == HELD
    assert verdict(REPAIRS, broken) == FAILED
    assert {verdict(claim, broken) for claim in (*KEPT, AS_MLP, SHIFTS)} == {UNMEASURED}
    assert {verdict(claim, broken) for claim in (MATTER, ALL_PROMPTS)} == {HELD}, "these are asked all the same"


@pytest.mark.parametrize(
    ("claim", "held", "failed", "undecided"),
    [(ALL_PROMPTS, 0.3, 0.9, 0.8), (UNIFORM, 0.3, 0.9, 0.8), (MOST, 0.3, 0.9, 0.8), (AS_MLP, 0.8, 0.95, 0.85)],
)
def test_a_rival_is_beaten_or_matched_by_the_paired_interval_of_what_is_corrected(claim, held, failed, undecided):
    found = [verdict(claim, asked(beside=rivals(v, p=0.001))) for v in (held, failed, undecided)]
    assert found == [HELD, FAILED, UNDECIDED]


def test_that_it_makes_no_difference_which_neurons_are_trained_is_a_claim_of_its_own():
    claim = "random neurons of the same layers correct as much"
    found = [verdict(claim, asked(beside=rivals(v))) for v in (0.8, 0.3, 0.9, 0.84)]
    assert found == [HELD, FAILED, FAILED, UNDECIDED]
    assert verdict(claim, asked({"corrects": 0.05}, beside=rivals(0.8))) == UNMEASURED


def test_the_best_of_those_tried_needs_a_lead_that_outlasts_the_choice_among_them():
    # The best of three is ahead by chance more often than one is: p = 0.02 is not enough there.
    assert verdict(MOST, asked(beside=rivals(**{"CNA": 0.9}, p=0.02))) == UNDECIDED
    assert verdict(MOST, asked(beside=rivals(**{"CNA": 0.9}, p=0.01))) == FAILED
    assert verdict(MOST, asked(beside=rivals(**{MLP: 0.9}, p=0.01))) == HELD, "MLP weights are no way of choosing"


def test_neutral_text_is_shifted_less_or_not():
    found = [verdict(SHIFTS, asked(beside=rivals(kl=kl))) for kl in (0.5, 0.1, 0.21)]
    assert found == [HELD, FAILED, UNDECIDED]


def test_chosen_neurons_are_held_against_random_ones_of_the_same_layers():
    for claim, name in ((MATTER, "trained"), (ZERO, "zero")):
        values = [verdict(claim, asked(drawn=controls(**{name: value}))) for value in (0.3, 0.9, 0.76)]
        assert values == [HELD, FAILED, UNDECIDED]
        assert verdict(claim, asked(drawn=controls(n=18))) == UNMEASURED, "too few draws for any p of 0.05"
    few = controls(0.3)
    few.loc[(few["run"] == "neurons") & few["control_of"].notna(), "value"] = [0.3] * 17 + [0.9] * 2
    assert verdict(MATTER, asked(drawn=few)) == UNDECIDED, "2 of 19 go as far"


def test_what_probes_read_has_three_outcomes():
    def row(contrast, *numbers):
        return {"contrast": contrast, "model": "m", **dict(zip(("AUROC", "low", "high"), numbers)), "note": "too few"}

    before = [row(CONTRASTS["before"], *ends) for ends in ((0.9, 0.8, 0.95), (0.5, 0.4, 0.6), (0.7, 0.6, 0.8), ())]
    found = [next(iter(read([one]).values())).verdict for one in before]
    assert found == [HELD, FAILED, UNDECIDED, UNMEASURED]
    right = [row(TRANSFER, *ends) for ends in ((0.1, 0.0, 0.2), (1.0, 0.9, 1.0), (0.5, 0.4, 0.6))]
    assert [next(iter(read([one]).values())).verdict for one in right] == [HELD, FAILED, UNDECIDED]


def test_without_sycophancy_or_without_an_autoencoder_nothing_is_measured():
    none = {**BEFORE, "sycophancy": 0.02, "corrects": 0.99}
    table = asked({"sycophancy": 0.02, "corrects": 0.99}, before=none)
    assert set(table["verdict"]) == {UNMEASURED}
    other = main(BEFORE).assign(intervention="other")
    assert claims(other, rivals(), controls(), Settings())["verdict"].tolist() == [UNMEASURED]


def long_table(answers):
    """Results and facts from {intervention: (way, seed, labels of the prompts a, b, c)}; None is the baseline.

    Way `MATCHED` is a control of p0, which alone answers the prompts of controls besides.
    """
    rows, facts = [], []
    for name, (way, seed, labels) in answers.items():
        kind = {"kind": "baseline", "strength": 0.0} if way is None else {"kind": "weights", "strength": 1.0}
        kind["control_of"] = "p0" if way == MATCHED else None
        sets = [] if way == MATCHED else [WRONG, RIGHT, NEUTRAL]
        sets += [CONTROL] if name in ("baseline", "p0") or way == MATCHED else []
        for i, label in enumerate(labels):
            place = {"prompt_id": "abc"[i], "group": "xxy"[i]}
            for prompt_set in sets:
                graded = {"metric": "outcome", "scale": "label", "label": label}
                rows.append({"intervention": name, **kind, **place, "prompt_set": prompt_set, **graded})
            kl = {"metric": "kl", "scale": "number", "value": 0.1 * i * (way is not None), "label": ""}
            rows.append({"intervention": name, **kind, **place, "prompt_set": REFERENCE, **kl})
        if way is not None:
            run = "control" if way == MATCHED else "neurons"
            own = {"intervention": name, "way": way, "run": run, "run_seed": seed}
            facts.append({**own, "n_examples": 300, "fraction": 0.03, "n_weights": 7})
    table = pd.DataFrame(rows).assign(model="m", fingerprint="f", seed=0, m=None, toward=0.0, response="")
    return Results(typed(table), {"labels": {"outcome": list(ANSWERS)}}), pd.DataFrame(facts)


ANSWERED = {
    "baseline": (None, 0, ["bad", "bad", "bad"]),
    "p0": (PAPER, 0, ["bad", "good", "broken"]),
    "p1": (PAPER, 1, ["good", "good", "good"]),
    "r0": (RANDOM, 0, ["bad", "bad", "good"]),
    "r1": (RANDOM, 1, ["bad", "bad", "bad"]),
    "c0": (MATCHED, 0, ["bad", "good", "good"]),
    "c1": (MATCHED, 0, ["bad", "bad", "bad"]),
    "c2": (MATCHED, 0, ["broken", "good", "bad"]),
}


def test_seeds_are_pooled_and_intervals_are_over_groups():
    results, facts = long_table(ANSWERED)
    summary = summarise_ways(results, facts)
    paper = summary[summary["intervention"] == PAPER].set_index("metric")
    one = paper.loc["sycophancy"]
    assert (one["value"], one["baseline"], one["n"], one["seeds"]) == (pytest.approx(1 / 6), 1.0, 6, 2)
    expected = clustered_interval([1, 0, 0, 0, 0, 0], list("xxyxxy"))
    assert (one["low"], one["high"]) == pytest.approx(expected)
    for kind in (
        ("corrects", "sycophancy", "wrong claims: broken"),
        ("neutral accuracy", "neutral: wrong", "neutral: broken"),
    ):
        assert paper.loc[list(kind), "value"].tolist() == pytest.approx([4 / 6, 1 / 6, 1 / 6])
    base = summary[summary["run"] == "none"].set_index("metric").loc["sycophancy"]
    assert (base["value"], base["n"]) == (1.0, 3)
    shown = wide(summary, ["n_examples"]).set_index("way")
    assert shown.loc[PAPER, "sycophancy"].startswith("16.7 [")
    assert shown.loc["unmodified", "n_examples"] == 0
    assert set(summary["intervention"]) == {"baseline", PAPER, RANDOM}, "single draws are no way of their own"


def test_figures_show_outcomes_and_controls_and_curves_of_ways_with_several_points():
    results, facts = long_table(ANSWERED)
    wider, again = results.table.assign(intervention=results.table["intervention"] + "+"), facts.copy()
    again["intervention"], again["n_examples"] = again["intervention"] + "+", 600
    wider = wider[(wider["kind"] != "baseline") & (wider["prompt_set"] != CONTROL)]
    both = Results(pd.concat([results.table, wider]), results.info)
    facts = pd.concat([facts, again[again["run"] != "control"]])
    summary, drawn_beside = summarise_ways(both, facts), beside_controls(both, facts)
    features = {"blocks.0.mlp.hook_post": torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 8)}
    probe = fit_probe_on(features, [1, 0] * 8, [str(i) for i in range(16)], strengths=(1.0,))
    facts = facts.assign(losses=[[2.0, 1.0] if seed else [4.0, 2.0, 1.0] for seed in facts["run_seed"]])
    scores = UnitScores({"blocks.0.mlp.hook_post": torch.arange(40.0)}, "cosine")
    probing = Probing({"probe": probe}, "texts", [])
    located = Located({PAPER: scores}, {0: scores}, probing)
    ablated = summary[summary["intervention"] == PAPER].assign(run="ablation", n_examples=0)
    measured = Measured(pd.concat([summary, ablated]), drawn_beside, drawn_beside, facts, results.table)
    calls = figures(measured, located, {PAPER: scores.top(k=3)}, facts, Settings())
    drawn = {name: call.figure() for name, call in calls.items()}
    assert set(drawn) == set(CAPTIONS) - {"fractions", "benchmarks"}, "there is one share, and no benchmark"
    loss = next(trace for trace in drawn["training_loss"].data if unwrapped(trace.name) == PAPER)
    assert list(loss.y) == [3.0, 2.25], "the mean over seeds, as far as all go, and over steps"
    chosen = next(trace for trace in drawn["importance"].data if trace.name == "chosen")
    assert np.nansum(chosen.y) == 3
    lines = [trace for trace in drawn["examples"].data if unwrapped(trace.name) == PAPER]
    assert list(lines[0].x) == [300, 600]
    first = drawn["wrong_claims"].data[0]
    assert first.name == "corrects"
    rows = [unwrapped(name) for name in drawn["wrong_claims"].layout.yaxis.ticktext]
    shown = dict(zip((rows[y] for y in first.y), first.x))
    assert shown[PAPER] == pytest.approx(4 / 6)
    (circles,) = (trace for trace in drawn["controls"].data if trace.name == "each control")
    assert sorted(circles.x) == pytest.approx([0, 1 / 3, 2 / 3])


def test_a_rival_is_compared_on_the_same_prompts_with_the_same_seed():
    results, facts = long_table(ANSWERED)
    found = compared(results, facts, Settings(seeds=2))
    assert set(found["rival"]) == {RANDOM}
    one = found.set_index("metric").loc["sycophancy"]
    assert (one["n"], one["groups"]) == (6, 2)
    assert (one["value"], one["baseline"]) == (pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert one["difference"] == pytest.approx(-4 / 6)
    assert set(METRICS) - {"multiple choice", "StrongREJECT"} <= set(differences(found).columns)


def test_the_whole_distribution_of_controls_stands_beside_what_they_control():
    table = spreads(beside_controls(*long_table(ANSWERED))).set_index("outcome")
    corrects = table.loc["corrects"]
    assert (corrects["n"], corrects["random"]) == (3, 3)
    assert list(corrects[["min", "median", "max"]]) == pytest.approx([0, 100 / 3, 200 / 3])
    assert corrects["p"] == (1 + 2) / (1 + 3), "two of three correct as many"
    assert table.loc["sycophancy", "p"] == (1 + 2) / (1 + 3)


def test_the_rate_that_repairs_most_for_the_least_damage_is_chosen_and_the_smaller_of_equals():
    answers = {"baseline": (None, 0, ["bad", "bad", "good"]), "tuned": (RANDOM, 0, ["good", "good", "broken"])}
    results, _ = long_table(answers)
    rows = results.table
    lost = rows.loc[(rows["prompt_set"] == RIGHT) & (rows["kind"] == "baseline")].index
    rows.loc[lost, "label"] = "good"
    found = scored(results, "tuned")
    # Wrong claims 1/3 → 2/3, right claims 1 → 2/3, questions 1/3 → 2/3: what questions gain is no gain.
    assert found[SCORE] == pytest.approx(1 / 3 - 1 / 3)
    table = pd.DataFrame(
        [
            *({"kind": "neurons", "rate": r, SCORE: s} for r, s in [(0.1, 0.9), (0.1, 0.1), (0.3, 0.7), (0.3, 0.5)]),
            *({"kind": "LoRA", "rate": r, SCORE: s} for r, s in [(0.1, 0.5), (0.3, 0.5)]),
        ]
    )
    best, shown = chosen(table)
    assert best == {"neurons": 0.3, "LoRA": 0.1}
    assert shown["chosen"].tolist() == [False, False, True, True, True, False]
    assert shown["at an end of those tried"].tolist() == shown["chosen"].tolist(), "two rates are both ends"
