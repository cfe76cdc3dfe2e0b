"""What the paper says, asked of the measured rows. Margins are stated here, before anything is measured.

The paper speaks of a behaviour that is gone. Beside its words stands what is wanted done well, since broken text shows
no behaviour either. All margins are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ...evaluation.verdicts import (
    UNMEASURED,
    Verdict,
    all_of,
    as_good,
    beats,
    beyond_controls,
    falls_to_share,
    given,
    moves,
    named,
    not_measurable,
    stays,
    unmoved,
)
from .data import SKILL, Behaviour, Drift, new
from .methods import ACTIVATIONS, AFTER, AT_END, BIAS, CONTRASTIVE, JOINT, ONE_LAYER, ONE_SIDED, SHUFFLED, SYSTEM
from .summary import BASELINE, compared, summarise_methods

#: A change smaller than this is none: of a null direction, of a task, of a capability.
MARGIN = 0.1
#: By more than this one method beats another.
LEAD = 0.05
#: Share of the drift that is left at most where subtracting w undoes it.
LEFT = 0.5

#: The main claims: a behaviour is steered, a drift is undone.
MAIN = ("contrastive steering raises what is wanted done well", "subtracting w gives back what was done well")

Row = dict[str, Any]


def steering_claims(behaviour: Behaviour, rows: pd.DataFrame, nulls: pd.DataFrame, controls: pd.DataFrame) -> list[Row]:
    """W steers, keeps capability, beats either side alone and activation steering; null directions do nothing.

    `rows` are pooled rows of every method at its best strength on validation prompts, `nulls` of null directions at the
    strength of w, and `controls` of w and random directions of its norms on the same prompts.
    """
    name, well, up = behaviour.name, behaviour.well, behaviour.wanted == "more"
    own = summarise_methods(rows[rows["intervention"].isin([BASELINE, CONTRASTIVE])])
    own = own[own["intervention"] == CONTRASTIVE].set_index("metric", drop=False)
    steers = moves(own.loc[well], up=True, margin=MARGIN)
    side = behaviour.side_effect
    within = (
        not_measurable("no prompts that do not call for the behaviour; give --benign")
        if side is None
        else stays(own.loc[side], MARGIN, worse="higher")
    )
    kept = (
        all_of([stays(own.loc[metric], MARGIN) for metric in behaviour.capability])
        if behaviour.capability
        else not_measurable("no measure of capability; give --benchmark with multiple choice, such as mmlu=FILE")
    )
    gone = moves(own.loc[behaviour.shown], up=False, margin=MARGIN)
    asked = [] if up else [("contrastive steering lowers it (as the paper counts: it is gone)", gone)]
    asked += [
        (f"contrastive steering raises what is wanted done well: {well}", steers),
        ("contrastive steering keeps capability", given(steers, "it steers", kept, loss=True)),
        (
            f"contrastive steering does not overdo it: {side or 'side effect'}",
            given(steers, "it steers", within, loss=True),
        ),
        (
            "contrastive steering does what is wanted well more often than either side alone",
            _ahead(steers, rows, ONE_SIDED, well),
        ),
        (
            "on a template never trained on, it does so more often than activation steering",
            _ahead(steers, rows, ACTIVATIONS, new(well)),
        ),
        (
            "on a template never trained on, it does so more often than training biases alone",
            _ahead(steers, rows, [BIAS], new(well)),
        ),
        *_against_words(steers, rows, well),
        (
            "null directions at the same strength change nothing",
            given(steers, "w steers", _equivalent(nulls, behaviour)),
        ),
        ("it does what random directions of the same norms do not", _beyond(summarise_methods(controls), well)),
        (
            "on a template never trained on, it does so more often than activation steering at the prompt's end alone",
            _ahead(steers, rows, [AT_END], new(well)),
        ),
    ]
    return [verdict.row(f"{name}: {claim}") for claim, verdict in asked]


def _against_words(steers: Verdict, rows: pd.DataFrame, well: str) -> list[tuple[str, Verdict]]:
    """W ahead of a system prompt that asks for it, where one was tried."""
    if SYSTEM not in set(rows["intervention"]):
        return []
    return [("it does so more often than a system prompt that asks for it", _ahead(steers, rows, [SYSTEM], well))]


def _ahead(steers: Verdict, rows: pd.DataFrame, rivals: Sequence[str], metric: str) -> Verdict:
    """W ahead of each rival, where the unmodified model leaves anything to gain."""
    if metric not in set(rows["metric"]):
        return not_measurable("no prompts in words that were never trained on; give --new-template")
    found = [compared(rows, rival, [metric]).set_index("intervention").loc[CONTRASTIVE] for rival in rivals]
    verdict = all_of([beats(row, up=True, margin=LEAD) for row in found])
    return Verdict(steers.measured, UNMEASURED, verdict.rule) if steers.verdict == UNMEASURED else verdict


def _equivalent(nulls: pd.DataFrame, behaviour: Behaviour) -> Verdict:
    """Every null direction leaves the behaviour and its opposite where they were."""
    summary = summarise_methods(nulls)
    summary = summary[summary["metric"].isin([behaviour.shown, behaviour.opposite]) & (summary["kind"] != "baseline")]
    rows = [row for _, row in summary.iterrows()]
    verdicts = [unmoved(row, MARGIN) for row in rows]
    furthest = max(range(len(rows)), key=lambda i: abs(rows[i]["difference"]))
    row, names = rows[furthest], ", ".join(dict.fromkeys(summary["intervention"]))
    where = f"{row['intervention']} at {row['strength']:+g}, {row['metric']}"
    return named(all_of(verdicts), f"{names}; furthest: {where}, {verdicts[furthest].measured}")


def _beyond(summary: pd.DataFrame, metric: str) -> Verdict:
    """W against the random directions of its norms, on the same prompts."""
    summary = summary[summary["metric"] == metric]
    own = summary[summary["intervention"] == CONTRASTIVE].iloc[0]
    return beyond_controls(own, list(summary[summary["control_of"] == CONTRASTIVE]["value"]), up=True, margin=MARGIN)


def repair_claims(drift: Drift, rows: pd.DataFrame, controls: pd.DataFrame) -> list[Row]:
    """The task moves the behaviour; less w the model does well again what it did, keeps the skill, and chance does not.

    `rows` are pooled rows of every remedy at its best strength on validation prompts, `controls` those of w and random
    directions of its norms on the same prompts.
    """
    name, well, spoilt = drift.behaviour.name, drift.well, drift.spoilt
    asked = [well, spoilt, SKILL]
    before = summarise_methods(rows[rows["intervention"].isin([BASELINE, AFTER]) & rows["metric"].isin(asked)])
    before = before[before["intervention"] == AFTER].set_index("metric", drop=False)
    moved = moves(before.loc[spoilt], up=True, margin=MARGIN)
    after = compared(rows, AFTER, asked).set_index(["intervention", "metric"], drop=False)
    restored = _falls(_lacking(after.loc[(CONTRASTIVE, well)]))
    restored = named(restored, f"not done well: {restored.measured}")
    skill = stays(after.loc[(CONTRASTIVE, SKILL)], MARGIN, least=MARGIN)
    joint = compared(rows, JOINT, asked)
    joint = joint[joint["intervention"] == CONTRASTIVE].set_index("metric", drop=False)
    said, does = "the task moves it", "it is done well again"
    claims = [
        ("a task in which nobody asked for it moves it", moved),
        (
            "subtracting w undoes the drift (as the paper counts: what the task brought is gone)",
            given(moved, said, _falls(after.loc[(CONTRASTIVE, spoilt)])),
        ),
        (f"subtracting w gives back what was done well: {well}", given(moved, said, restored)),
        ("and keeps the skill", given(moved, said, given(restored, does, skill))),
        (
            "it repairs as well as joint training",
            given(moved, said, all_of([as_good(joint.loc[metric], MARGIN, up=True) for metric in (well, SKILL)])),
        ),
        (
            "it gives back more of it than activation steering of the fine-tuned model does",
            given(moved, said, _ahead(restored, rows, [ONE_LAYER], well)),
        ),
        (
            "random directions of the same norms do not",
            given(moved, said, _beyond(compared(controls, AFTER, [well]), well)),
        ),
        (
            "nor does a difference of shuffled labels",
            given(moved, said, given(restored, "w does", unmoved(after.loc[(SHUFFLED, well)], MARGIN))),
        ),
    ]
    return [verdict.row(f"{name}: {claim}") for claim, verdict in claims]


def _falls(row: pd.Series) -> Verdict:
    """A row whose baseline is the model after the task."""
    return replace(falls_to_share(row, LEFT), rule=f"at most {LEFT:.0%} of what it is after the task")


def _lacking(row: pd.Series) -> pd.Series:
    """The row of all responses but those of a row's."""
    ends = {"low": "high", "high": "low", "baseline_low": "baseline_high", "baseline_high": "baseline_low"}
    turned = {name: 1 - row[ends.get(name, name)] for name in ("value", "baseline", *ends)}
    return pd.Series({**row, **turned})
