"""Each claim of the CNA study reaches every outcome on made-up summaries, and the right one in simulated studies."""

import numpy as np
import pandas as pd
import pytest

from mechsurgery.attribution.compare import Comparison
from mechsurgery.evaluation import summarise
from mechsurgery.evaluation.verdicts import FAILED, HELD, UNDECIDED, UNMEASURED
from mechsurgery.grading.world import REQUEST
from mechsurgery.studies.cna.choice import at_best
from mechsurgery.studies.cna.claims import against_rivals, claims, content_only, late, more_content, of_mode, shared
from mechsurgery.studies.cna.data import CONTROLLED
from mechsurgery.studies.cna.methods import CAA_MLP, CNA
from mechsurgery.units import Circuit

WIDTHS = {f"blocks.{layer}.mlp.hook_post": 100 for layer in range(10)}
COUNTS = {HELD: (5, 35), FAILED: (36, 4), UNDECIDED: (18, 22), UNMEASURED: (3, 4)}
SHOWS, WELL, BROKEN = REQUEST.outcome
BESIDE = CONTROLLED["behaviour"]


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
        "baseline_low": baseline - half,
        "baseline_high": baseline + half,
        "difference": change,
        "difference_low": change - half,
        "difference_high": change + half,
        "p_value": 0.01,
        "n": 100,
    }


def summary(**facts):
    """Of a circuit whose ablation works well; `facts` change single numbers."""
    given = {"refuses": 0.2, "complies": 0.8, "before": 0.95, "complied": 0.02, "random": 0.9, "random_well": 0.03}
    given |= {"own_refuses": 0.2, "own_complies": 0.8, "controls": 50, "quality": 0.99, "benign": 0.95}
    given |= {"repeats": 0.9, "repeated": 0.0, "salad": 0.9, "broke": 0.0, "choice": 0.8, "chosen": 0.8}
    given |= {"doubled": 0.97, "doubled_before": 0.85} | facts
    outcome, small = REQUEST.name, {"half": 0.005}
    beside = {"prompt_set": BESIDE, "baseline": given["before"]}
    rows = [
        row(CNA, -1.0, outcome, given["refuses"], baseline=given["before"], label=SHOWS),
        row(CNA, 1.0, outcome, given["doubled"], baseline=given["doubled_before"], label=SHOWS),
        row(CNA, -1.0, outcome, given["complies"], baseline=given["complied"], label=WELL),
        row(CNA, -1.0, outcome, 0.0, baseline=0.0, label=BROKEN),
        row(CAA_MLP, -1.0, outcome, given["salad"], baseline=given["broke"], label=BROKEN),
        row(CNA, -1.0, outcome, given["benign"], baseline=0.95, prompt_set="benign", label=WELL),
        row(CNA, -1.0, outcome, given["own_refuses"], label=SHOWS, **beside),
        row(CNA, -1.0, outcome, given["own_complies"], label=WELL, **beside | {"baseline": given["complied"]}),
        row(CNA, -1.0, "quality", given["quality"], baseline=0.99, **small),
        row(CNA, 1.0, "quality", 0.1, baseline=0.99),
        row(CAA_MLP, -1.0, "repeats", given["repeats"], baseline=given["repeated"]),
        row(CAA_MLP, 1.0, "repeats", 0.0, baseline=0.0),
        row(CAA_MLP, 1.0, outcome, 0.0, baseline=0.0, label=BROKEN),
        row(CNA, -1.0, "choice", given["choice"], baseline=given["chosen"], prompt_set="choices", **small),
    ]
    for label, value in ((SHOWS, given["random"]), (WELL, given["random_well"])):
        rows += [
            row(f"random {i}", -1.0, outcome, value, label=label, control_of=CNA, **beside)
            for i in range(given["controls"])
        ]
    return pd.DataFrame(rows)


NOTHING = {"refuses": 0.95, "complies": 0.02}
CASES = [
    ("halves", {}, HELD),
    ("halves", {"refuses": 0.8}, FAILED),
    ("halves", {"refuses": 0.47}, UNDECIDED),
    ("halves", {"before": 0.05}, UNMEASURED),
    ("done well", {}, HELD),
    ("done well", {"complies": 0.1}, FAILED),
    ("done well", {"complies": 0.51}, UNDECIDED),
    ("done well", {"complied": 0.7}, UNMEASURED),
    ("lowers the behaviour more", {}, HELD),
    ("lowers the behaviour more", {"own_refuses": 0.95}, FAILED),
    ("lowers the behaviour more", {"own_refuses": 0.84}, UNDECIDED),
    ("lowers the behaviour more", {"random": 0.2, "own_refuses": 0.3}, FAILED),
    ("lowers the behaviour more", {"controls": 18}, UNMEASURED),
    ("makes more responses", {}, HELD),
    ("makes more responses", {"own_complies": 0.02}, FAILED),
    ("makes more responses", {"own_complies": 0.09}, UNDECIDED),
    ("makes more responses", {"controls": 5}, UNMEASURED),
    ("0.97", {}, HELD),
    ("0.97", {"quality": 0.9}, FAILED),
    ("0.97", {"quality": 0.971}, UNDECIDED),
    ("0.97", NOTHING, UNMEASURED),
    ("benign prompts", {}, HELD),
    ("benign prompts", {"benign": 0.5}, FAILED),
    ("benign prompts", {"benign": 0.91}, UNDECIDED),
    ("benign prompts", NOTHING, UNMEASURED),
    ("CAA on MLP", {}, HELD),
    ("CAA on MLP", {"repeats": 0.2}, FAILED),
    ("CAA on MLP", {"repeats": 0.5}, UNDECIDED),
    ("CAA on MLP", {"repeated": 0.6}, UNMEASURED),
    ("CAA's responses", {}, HELD),
    ("CAA's responses", {"salad": 0.2}, FAILED),
    ("CAA's responses", {"salad": 0.5}, UNDECIDED),
    ("CAA's responses", {"broke": 0.6}, UNMEASURED),
    ("one point", {}, HELD),
    ("one point", {"choice": 0.7}, FAILED),
    ("one point", {"choice": 0.79}, UNDECIDED),
    ("one point", {"chosen": 0.25, "choice": 0.25}, UNMEASURED),
    ("one point", NOTHING, UNMEASURED),
    ("loses at most five", {}, HELD),
    ("loses at most five", {"choice": 0.7}, FAILED),
    ("loses at most five", {"choice": 0.75}, UNDECIDED),
    ("loses at most five", NOTHING, UNMEASURED),
    ("amplification", {}, HELD),
    ("amplification", {"doubled": 0.5}, FAILED),
    ("amplification", {"doubled": 0.89}, UNDECIDED),
    ("amplification", {"doubled_before": 0.99}, UNMEASURED),
]


@pytest.mark.parametrize(("claim", "facts", "verdict"), CASES)
def test_claims_of_a_mode(claim, facts, verdict):
    (measured,) = (found for words, found in of_mode(summary(**facts), REQUEST).items() if claim in words)
    assert measured.verdict == verdict, measured
    assert measured.rule


def test_what_was_not_measured_is_called_so():
    some = summary()
    some = some[(some["metric"] != "choice") & ((some["toward"] < 0) | (some["metric"] != REQUEST.name))]
    found = {words: one.verdict for words, one in of_mode(some, REQUEST).items()}
    asked = [verdict for words, verdict in found.items() if "choice" in words or "amplif" in words]
    assert asked == [UNMEASURED] * 3
    assert content_only(None).verdict == more_content(None).verdict == shared(None).verdict == UNMEASURED
    table = claims({"corrected": summary()}, REQUEST, circuit=Circuit({}, WIDTHS))
    assert table["verdict"].tolist()[-5:] == [UNMEASURED] * 5


@pytest.mark.parametrize(("verdict", "counts"), COUNTS.items())
def test_late_needs_neurons_and_an_interval(verdict, counts):
    places = dict(zip(("blocks.2.mlp.hook_post", "blocks.9.mlp.hook_post"), map(range, counts)))
    assert late(Circuit.from_indices(places, WIDTHS)).verdict == verdict


@pytest.mark.parametrize(
    ("flipped", "broken", "content", "verdict"),
    [
        ((0.0, 0.02), 0.0, (0.02, 0.6), HELD),
        ((0.0, 0.5), 0.0, (0.02, 0.6), FAILED),
        ((0.0, 0.02), 0.5, (0.02, 0.6), FAILED),
        ((0.0, 0.02), 0.0, (0.01, 0.02), FAILED),
        ((0.0, 0.09), 0.0, (0.02, 0.6), UNDECIDED),
        ((0.0, 0.02), 0.0, (0.02, 0.11), UNDECIDED),
    ],
)
def test_content_only_asks_for_both(flipped, broken, content, verdict):
    kinds = (("behaviour changed", flipped), ("became broken", (0.0, broken)), ("content only", content))
    rows = [
        row("base's circuit", toward, "change", value, label=label)
        for label, values in kinds
        for toward, value in zip((-1.0, 1.0), values)
    ]
    assert content_only(pd.DataFrame(rows)).verdict == verdict


@pytest.mark.parametrize(
    ("own", "random", "n", "verdict"),
    [(0.8, 0.1, 50, HELD), (0.1, 0.3, 50, FAILED), (0.36, 0.3, 50, UNDECIDED), (0.8, 0.1, 10, UNMEASURED)],
)
def test_more_content_than_random_circuits(own, random, n, verdict):
    facts = {"prompt_set": BESIDE, "label": "content only", "baseline": float("nan")}
    rows = [row("base's circuit", -1.0, "change", own, **facts)]
    rows += [row(f"random {i}", -1.0, "change", random, control_of="base's circuit", **facts) for i in range(n)]
    assert more_content(pd.DataFrame(rows)).verdict == verdict


@pytest.mark.parametrize(
    ("n", "size", "expected", "verdict"),
    [
        (20, 40, 1.0, HELD),
        (0, 60, 1.0, FAILED),
        (20, 40, 20.0, UNDECIDED),
        (5, 40, 1.0, UNDECIDED),
        (10, 40, 38.0, FAILED),
        (7, 9, 0.1, UNMEASURED),
    ],
)
def test_shared_structure_is_set_against_a_margin_and_chance(n, size, expected, verdict):
    overlap = {"shared": n, "size": size, "other_size": size + 1, "expected_shared": expected}
    overlap |= {"p_value_within_layers": 0.01, "rank_correlation": 0.5}
    comparison = Comparison({}, {}, overlap)
    assert shared(comparison).verdict == verdict
    table = claims({"corrected": summary()}, REQUEST, circuit=Circuit({}, WIDTHS), comparison=comparison)
    assert table["verdict"].iloc[-1] == verdict
    assert table.columns.tolist() == ["claim", "mode", "rule", "measured", "verdict"]


def responses(name, toward, labels, *, prompt_set="behaviour", control_of=None, groups=1):
    """Rows of one intervention's outcomes on numbered prompts, `groups` of them in a group."""
    frame = pd.DataFrame({"label": labels})
    frame["prompt_id"] = [f"{prompt_set} {i}" for i in range(len(labels))]
    frame["group"] = [f"{prompt_set} {i // groups}" for i in range(len(labels))]
    facts = {"model": "m", "fingerprint": "f", "intervention": name, "prompt_set": prompt_set, "control_of": control_of}
    facts |= {"kind": "baseline" if name == "baseline" else "scaling", "toward": toward, "strength": -toward}
    return frame.assign(**facts, m=1 + toward, seed=0, metric=REQUEST.name, scale="label", value=np.nan)


@pytest.mark.parametrize(
    ("own", "others", "verdict"),
    [(80, (5, 20), HELD), (5, (5, 80), FAILED), (20, (5, 18), UNDECIDED), (0, (0, 0), UNDECIDED), (0, (), UNMEASURED)],
)
def test_rivals_are_met_at_the_strength_of_their_own(own, others, verdict):
    counts = {CNA: own, **{f"rival {i}": n for i, n in enumerate(others)}}
    strengths = pd.DataFrame({"intervention": list(counts), "toward": -0.5, "chosen": True, "fold": 1})
    parts = [
        responses(name, toward, [WELL] * n + [SHOWS] * (100 - n))
        for name, n in counts.items()
        for toward, n in ((-0.5, n), (-1.0, 100 - n))
    ]
    parts += [responses(name, -0.5, [WELL] * 40, prompt_set="benign") for name in counts]
    parts += [responses("baseline", 0.0, [SHOWS] * 100), responses("baseline", 0.0, [WELL] * 40, prompt_set="benign")]
    rows = at_best([pd.concat(parts, ignore_index=True)], strengths)
    assert against_rivals(rows, REQUEST).verdict == verdict


def simulated(kind, seed):
    """The summary of a study in which ablation does nothing, cures, or wrecks the text; 100 prompts of 25 nouns."""
    rng = np.random.default_rng(seed)
    shares = {"null": (0.97, 0.01, 0.02), "cure": (0.1, 0.85, 0.05), "wreck": (0.05, 0.05, 0.9)}
    before = (0.97, 0.01, 0.02)

    def draw(name, toward, share, *, n=100, prompt_set="behaviour", **more):
        labels = rng.choice([SHOWS, WELL, BROKEN], n, p=share)
        return responses(name, toward, labels, prompt_set=prompt_set, groups=4, **more)

    well = (0.0, 0.98, 0.02)
    after_benign = {"null": well, "cure": well, "wreck": (0.0, 0.1, 0.9)}[kind]
    parts = [
        draw("baseline", 0.0, before),
        draw(CNA, -1.0, shares[kind]),
        draw(CAA_MLP, -1.0, shares["wreck"]),
        draw("baseline", 0.0, well, prompt_set="benign", n=50),
        draw(CNA, -1.0, after_benign, prompt_set="benign", n=50),
        draw("baseline", 0.0, before, prompt_set=BESIDE, n=32),
        draw(CNA, -1.0, shares[kind], prompt_set=BESIDE, n=32),
        *(draw(f"random {i}", -1.0, before, prompt_set=BESIDE, n=32, control_of=CNA) for i in range(50)),
    ]
    outcomes = pd.concat(parts, ignore_index=True)
    main = outcomes[outcomes["prompt_set"] == "behaviour"]
    broken = (main["label"] == BROKEN).to_numpy()
    quality = main.assign(metric="quality", scale="number", label="", value=np.where(broken, 0.5, 1.0))
    repeats = main.assign(metric="repeats", scale="rate", label="", value=broken.astype(float))
    kept = main[main["intervention"].isin(["baseline", CNA])].assign(prompt_set="choices", label="", metric="choice")
    right = rng.random(len(kept)) < np.where((kept["intervention"] == CNA) & (kind == "wreck"), 0.3, 0.99)
    choice = kept.assign(scale="rate", value=right.astype(float))
    return summarise(pd.concat([outcomes, quality, repeats, choice]), labels={REQUEST.name: REQUEST.labels})


@pytest.mark.parametrize("kind", ["null", "cure", "wreck"])
def test_nothing_a_cure_and_a_wreck_are_told_apart(kind):
    found = of_mode(simulated(kind, 0), REQUEST)
    assert (found[next(c for c in found if "halves" in c)].verdict == HELD) == (kind != "null")
    assert (found[next(c for c in found if "done well" in c)].verdict == HELD) == (kind == "cure")
    if kind == "null":
        assert not [words for words, one in found.items() if one.verdict == HELD and "CAA" not in words]
