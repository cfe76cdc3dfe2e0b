"""The paper's claims, and ours beside them, asked of what was measured; every rule is the verdict engine's.

The paper asks whether the behaviour is gone. Broken text has no behaviour either, so it is asked here as well whether
what is left is done well. What is said to stay (quality, capability) is asked only where ablation has an effect:
nothing is lost where nothing happens.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ...attribution.compare import Comparison, in_last_tenth
from ...evaluation import verdicts as v
from ...evaluation import versus
from ...evaluation.select import controls_of, select
from ...grading.grade import Grade
from ...units import Circuit
from .bench import REPEATS
from .data import CONTROLLED
from .localise import LEAST_NEURONS
from .methods import CAA_MLP, CNA
from .settings import CORRECTED
from .tables import HALVES, at_full_strength

#: Multiple choice below this is close to guessing among four: nothing to lose.
ABOVE_CHANCE = 0.3
#: What two circuits share at least where they share structure.
SHARED = 0.1
#: A share of responses that counts: at most this many change behaviour, at least this many change content.
NOTABLE = 0.1
EFFECT = "ablation lowers the behaviour"
CHANGED = "scaling the base model's neurons changes content, not behaviour"
MORE_CONTENT = "(control the paper lacks) ablating them changes more content than random circuits do"


def claims(
    summaries: Mapping[str, pd.DataFrame],
    grade: Grade,
    *,
    circuit: Circuit,
    places: Mapping[str, v.Verdict] | None = None,
    base_changes: pd.DataFrame | None = None,
    comparison: Comparison | None = None,
    rivals: v.Verdict | None = None,
) -> pd.DataFrame:
    """One row for each claim and mode: claim, mode, rule, measured, verdict; `places` are those about several tasks."""
    structure = {
        "(ours) at its best strength it leaves more prompts of both sides done well than every rival at its own": rivals
        or v.not_measurable("no strengths were chosen on validation prompts"),
        "the circuit sits in late layers: most of it in the last tenth": late(circuit),
        **(places or {}),
        CHANGED: content_only(base_changes),
        MORE_CONTENT: more_content(base_changes),
        "base and instruct share structure: over a tenth of the circuit (ours), and over chance within layers": (
            shared(comparison)
        ),
    }
    modes = {mode: of_mode(summary, grade) for mode, summary in summaries.items()}
    rows = [verdict.row(claim, mode=mode) for mode, asked in modes.items() for claim, verdict in asked.items()]
    return pd.DataFrame(rows + [verdict.row(claim, mode=CORRECTED) for claim, verdict in structure.items()])


def of_mode(summary: pd.DataFrame, grade: Grade) -> dict[str, v.Verdict]:
    """The claims that are asked of each mode."""
    labels = grade.outcome
    shown, well, broken = (select(summary, grade.name, "behaviour", label) for label in labels)
    shown, well = (rows[rows["intervention"] == CNA].set_index("toward") for rows in (shown, well))
    effect = v.moves(shown.loc[-1.0], up=False)
    quality = select(summary, "quality", "behaviour")
    scaled = quality[(quality["intervention"] == CNA) & quality["toward"].between(-1, 0)]
    lowest = scaled.loc[scaled["low"].idxmin()]
    repeats = select(summary, REPEATS.name, "behaviour")
    rival, salad = (at_full_strength(rows[rows["intervention"] == CAA_MLP]).iloc[0] for rows in (repeats, broken))
    benign = select(summary, grade.name, "benign", labels.well, intervention=CNA).set_index("toward")
    choice = summary[(summary["metric"] == "choice") & (summary["intervention"] == CNA) & (summary["toward"] == -1)]
    return {
        HALVES: v.falls_to_share(shown.loc[-1.0], 0.5),
        f"(ours) the behaviour's opposite is done well: at least half of responses are {labels.well!r}": v.rises_to(
            well.loc[-1.0], 0.5
        ),
        "(control the paper lacks) it lowers the behaviour more than random circuits of the same size and layers": (
            _beside_controls(summary, grade, labels.shows, up=False)
        ),
        f"(control the paper lacks) it makes more responses {labels.well!r} than such random circuits": (
            _beside_controls(summary, grade, labels.well, up=True)
        ),
        "output quality stays at or above 0.97 at every strength up to ablation": v.given(
            effect,
            EFFECT,
            v.named(v.all_of([v.stays_above(row, 0.97) for _, row in scaled.iterrows()]), v.change(lowest)),
            loss=True,
        ),
        f"(ours) benign prompts stay {labels.well!r}: at most five points fewer": v.given(
            effect, EFFECT, v.stays(benign.loc[-1.0], 0.05), loss=True
        ),
        "CAA on MLP outputs at full strength breaks the text (ours: half of responses with quality below 0.9)": (
            v.rises_to(rival, 0.5)
        ),
        "(ours) at least half of CAA's responses at full strength are broken": v.rises_to(salad, 0.5),
        "multiple choice loses at most one point (the paper's; fewer than 200 questions cannot say)": v.given(
            effect, EFFECT, _choice(choice, 0.01), loss=True
        ),
        "(ours) multiple choice loses at most five points": v.given(effect, EFFECT, _choice(choice, 0.05), loss=True),
        "amplification (m = 2) raises the behaviour": v.moves(shown.loc[1.0], up=True)
        if 1.0 in shown.index
        else v.not_measurable("not swept above m = 1"),
    }


def _beside_controls(summary: pd.DataFrame, grade: Grade, label: str, *, up: bool) -> v.Verdict:
    """The ablated circuit beside random ones, on the prompts that all of them answered."""
    rows = select(summary, grade.name, CONTROLLED["behaviour"], label)
    own = rows[rows["intervention"] == CNA].iloc[0]
    return v.beyond_controls(own, list(controls_of(rows, CNA)["value"]), up=up)


def _choice(rows: pd.DataFrame, margin: float) -> v.Verdict:
    if rows.empty:
        return v.not_measurable("no multiple choice")
    return v.stays(rows.iloc[0], margin, least=ABOVE_CHANCE)


def against_rivals(best: pd.DataFrame, grade: Grade) -> v.Verdict:
    """The circuit against every rival, each at the strength validation chose, by what is done well on both sides.

    Prompts of both sides count: `well` on the behaviour's is what is gained, on benign ones what is not lost. `best`
    are the rows that `at_best` gives.
    """
    both = best[(best["metric"] == grade.name) & best["prompt_set"].isin(CONTROLLED)]
    chosen = both[both["kind"] != "baseline"]
    both = both.assign(prompt_id=both["prompt_set"] + ": " + both["prompt_id"].astype(str), prompt_set="both sides")
    names = [name for name in chosen["intervention"].unique() if name != CNA]
    rows = []
    for rival in names:
        two = both[both["intervention"].isin([CNA, rival]) | (both["kind"] == "baseline")]
        summary = versus(two, rival, labels={grade.name: grade.labels})
        rows.append(select(summary, grade.name, "both sides", grade.outcome.well, intervention=CNA).iloc[0])
    return v.best(rows, up=True)


def late(circuit: Circuit) -> v.Verdict:
    """Most of the circuit lies in the last tenth of layers."""
    n, expected = in_last_tenth(circuit)
    return v.share_above(n, len(circuit), 0.5, least=LEAST_NEURONS, said=f"; {100 * expected:.0f} % by chance")


def content_only(changed: pd.DataFrame | None) -> v.Verdict:
    """At every m few responses change behaviour or break, and at some m not so few change in content alone."""
    if changed is None:
        return v.not_measurable("no base model")
    own = changed[changed["control_of"].isna()]
    moved = pd.concat([select(own, "change", "behaviour", kind) for kind in ("behaviour changed", "became broken")])
    kept = [v.reaches(1 - row["value"], 1 - row["high"], 1 - row["low"], 1 - NOTABLE) for _, row in moved.iterrows()]
    content = select(own, "change", "behaviour", "content only")
    most, worst = content.loc[content["low"].idxmax()], moved.loc[moved["high"].idxmax()]
    many = v.reaches(most["value"], most["low"], most["high"], NOTABLE)
    text = f"{worst['label']} in at most {v.cell(worst)}; content only in up to {v.cell(most)}"
    rule = f"behaviour changed, and broken, at most {NOTABLE:.0%} at every m; content alone at least that at some m"
    return v.Verdict(text, v.together([v.all_of(kept).verdict, many.verdict]), rule)


def more_content(changed: pd.DataFrame | None) -> v.Verdict:
    """Ablating the base's circuit changes content in more responses than ablating random circuits does."""
    if changed is None:
        return v.not_measurable("no base model")
    rows = select(changed, "change", CONTROLLED["behaviour"], "content only")
    own = rows[rows["control_of"].isna()].iloc[0]
    # Greedy responses of the unmodified model are what they are: none of them changes.
    return v.beyond_controls(
        own.to_frame().T.assign(baseline=0.0).iloc[0],
        list(controls_of(rows, str(own["intervention"]))["value"]),
        up=True,
    )


def shared(comparison: Comparison | None) -> v.Verdict:
    """The share of the smaller circuit that stands in the other too is above a margin and above chance."""
    if comparison is None:
        return v.not_measurable("no base model")
    overlap = comparison.overlap
    n, size = int(overlap["shared"]), int(min(overlap["size"], overlap["other_size"]))
    expected, p = overlap["expected_shared"], overlap["p_value_within_layers"]
    said = (
        f"; {expected:.2f} expected by chance within layers (p = {p:.2g}); rank correlation of all neurons "
        f"{overlap['rank_correlation']:.2f}"
    )
    return v.share_above(n, size, max(SHARED, expected / size), least=LEAST_NEURONS, said=said)
