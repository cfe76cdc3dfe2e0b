"""Each claim of the CNA study reaches every outcome on made-up summaries."""

import pandas as pd
import pytest

from mechsurgery.attribution.compare import Comparison
from mechsurgery.evaluation.verdicts import FAILED, HELD, UNDECIDED, UNMEASURED
from mechsurgery.studies.cna.claims import claims, content_only, late, of_mode, shared
from mechsurgery.studies.cna.methods import CAA_MLP, CNA
from mechsurgery.units import Circuit

WIDTHS = {f"blocks.{layer}.mlp.hook_post": 100 for layer in range(10)}
COUNTS = {HELD: (5, 35), FAILED: (36, 4), UNDECIDED: (18, 22), UNMEASURED: (3, 4)}


def row(name, toward, metric, value, *, half=0.03, baseline=0.95, prompt_set="behaviour", label="", control_of=None):
    change = value - baseline
    return {
        "intervention": name,
        "toward": toward,
        "m": 1 + toward,
        "control_of": control_of,
        "metric": metric,
        "prompt_set": prompt_set,
        "label": label,
        "scale": "number" if metric == "quality" else "rate",
        "value": value,
        "low": value - half,
        "high": value + half,
        "baseline": baseline,
        "difference": change,
        "difference_low": change - half,
        "difference_high": change + half,
        "n": 100,
    }


def summary(refusal=0.2, *, random=0.9, quality=0.99, caa=0.5, choice=0.8, doubled=0.97, before=0.85, half=0.005):
    rows = [
        row(CNA, -1.0, "refusal", refusal),
        row(CNA, 1.0, "refusal", doubled, baseline=before),
        row("control", -1.0, "refusal", random, control_of=CNA),
        row(CNA, -1.0, "quality", quality, half=half, baseline=0.99),
        row(CNA, 1.0, "quality", 0.1, baseline=0.99),
        row(CAA_MLP, -1.0, "quality", caa, baseline=0.99),
        row(CAA_MLP, 1.0, "quality", 1.0, baseline=0.99),
        row(CNA, -1.0, "choice", choice, half=half, baseline=0.8, prompt_set="choices"),
    ]
    return pd.DataFrame(rows)


CASES = [
    ("halves", {"refusal": 0.2}, HELD),
    ("halves", {"refusal": 0.8}, FAILED),
    ("halves", {"refusal": 0.47}, UNDECIDED),
    ("random circuits", {"refusal": 0.2}, HELD),
    ("random circuits", {"refusal": 0.95}, FAILED),
    ("random circuits", {"refusal": 0.89}, UNDECIDED),
    ("0.97", {"quality": 0.99}, HELD),
    ("0.97", {"quality": 0.9}, FAILED),
    ("0.97", {"quality": 0.971}, UNDECIDED),
    ("CAA", {"caa": 0.2}, HELD),
    ("CAA", {"caa": 0.98}, FAILED),
    ("CAA", {"caa": 0.9}, UNDECIDED),
    ("one point", {"choice": 0.8}, HELD),
    ("one point", {"choice": 0.7}, FAILED),
    ("one point", {"choice": 0.79}, UNDECIDED),
    ("amplification", {"doubled": 0.95}, HELD),
    ("amplification", {"doubled": 0.5}, FAILED),
    ("amplification", {"doubled": 0.86}, UNDECIDED),
    ("amplification", {"before": 0.99}, UNMEASURED),
]


@pytest.mark.parametrize(("claim", "facts", "verdict"), CASES)
def test_claims_of_a_mode(claim, facts, verdict):
    (measured,) = (found for words, found in of_mode(summary(**facts), "refusal").items() if claim in words)
    assert measured.verdict == verdict, measured


def test_what_was_not_measured_is_called_so():
    some = summary()
    some = some[(some["metric"] != "choice") & ((some["toward"] < 0) | (some["metric"] != "refusal"))]
    found = {words: one.verdict for words, one in of_mode(some, "refusal").items()}
    assert [verdict for words, verdict in found.items() if "choice" in words or "amplif" in words] == [UNMEASURED] * 2
    assert content_only(None).verdict == shared(None).verdict == UNMEASURED


@pytest.mark.parametrize(("verdict", "counts"), COUNTS.items())
def test_late_needs_neurons_and_an_interval(verdict, counts):
    places = dict(zip(("blocks.2.mlp.hook_post", "blocks.9.mlp.hook_post"), map(range, counts)))
    assert late(Circuit.from_indices(places, WIDTHS)).verdict == verdict


@pytest.mark.parametrize(
    ("flipped", "content", "verdict"),
    [
        ((0.0, 0.02), (0.02, 0.6), HELD),
        ((0.0, 0.5), (0.02, 0.6), FAILED),
        ((0.0, 0.02), (0.01, 0.02), FAILED),
        ((0.0, 0.09), (0.02, 0.6), UNDECIDED),
        ((0.0, 0.02), (0.02, 0.11), UNDECIDED),
    ],
)
def test_content_only_asks_for_both(flipped, content, verdict):
    kinds = (("behaviour changed", flipped), ("content only", content))
    rows = [
        row("base's circuit", toward, "change", value, label=label)
        for label, values in kinds
        for toward, value in zip((-1.0, 1.0), values)
    ]
    assert content_only(pd.DataFrame(rows)).verdict == verdict


@pytest.mark.parametrize(
    ("n", "size", "expected", "p", "verdict"),
    [
        (20, 40, 1.0, 1e-9, HELD),
        (0, 60, 1.0, 1.0, FAILED),
        (20, 40, 20.0, 0.5, UNDECIDED),
        (5, 40, 1.0, 0.01, UNDECIDED),
        (10, 40, 38.0, 1.0, FAILED),
    ],
)
def test_shared_structure_is_set_against_a_margin_and_chance(n, size, expected, p, verdict):
    overlap = {"shared": n, "size": size, "other_size": size + 1, "expected_shared": expected}
    overlap |= {"p_value_within_layers": p, "rank_correlation": 0.5}
    comparison = Comparison({}, {}, overlap)
    assert shared(comparison).verdict == verdict
    table = claims({"corrected": summary()}, "refusal", circuit=Circuit({}, WIDTHS), comparison=comparison)
    assert table["verdict"].iloc[-1] == verdict
    assert table.columns.tolist() == ["claim", "mode", "measured", "verdict"]
