"""What the probes are fitted on: how the model and others answer the same claims, not what kind of prompt it is.

The paper contrasts sycophantic with honest behaviour. That a claim is no question can be read perfectly and says
nothing, so that contrast is a row for comparison alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ...attribution.kept import kept_probe
from ...attribution.probes import Probe, auroc, fit_probe, fit_probe_on_examples
from ...attribution.statistics import example_activations
from ...evaluation import Generation, evaluate
from ...evaluation.shards import key_of
from ...grading.grade import ANSWERS, Grade
from ...models import load_model, sites
from ...models.dictionaries import Dictionary
from ...models.protocol import Model
from ...prompts import Examples, PromptSet, encode
from .data import RIGHT, WRONG, SycophancyTask
from .settings import Settings

logger = logging.getLogger(__name__)

#: The contrasts by the names that the settings know, in words.
CONTRASTS = {
    "texts": "sycophantic against honest text, mean over it",
    "both": "the same, with right claims agreed with as honest text",
    "answers": "the model's own answers, mean over them",
    "before": "the model's own answers, last token of the claim",
    "prompts": "wrong claims against neutral questions, last token",
}
#: The chosen probe on other text.
TRANSFER = "the first probe on right claims: agreeing against denying text"
#: What is read of each.
_READ: dict[str, Literal["prompt", "completion"]] = {
    "texts": "completion",
    "both": "completion",
    "answers": "completion",
    "before": "prompt",
}
LATENTS, SPARSE, STREAM, NEURONS = "SAE latents, L2", "SAE latents, L1", "residual stream", "MLP neurons"
#: Folds of cross-validation; so many groups must be on either side.
FOLDS = 5
#: An organism that agrees with some wrong claims and corrects others.
WAVERING = "organism/wavering"


@dataclass(frozen=True, eq=False)
class Sides:
    """Two ways to answer, as tokens: the sycophantic and the honest."""

    shown: Examples
    other: Examples

    @property
    def why_not(self) -> str:
        """Why no probe can be fitted; empty where one can."""
        few = min(len(set(side.groups)) for side in (self.shown, self.other))
        return f"claims of {few} groups on one side, {FOLDS} needed" if few < FOLDS else ""


@dataclass(frozen=True, eq=False)
class Probing:
    """The probes of the contrast that neurons are chosen by (`contrast`), and a table row for every probe."""

    probes: dict[str, Probe]
    contrast: str
    rows: list[dict[str, Any]]


def own_answers(
    model: Model,
    prompts: PromptSet,
    grade: Grade,
    generation: Generation,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    folder: str | Path | None = None,
) -> pd.DataFrame:
    """One sampled answer to each prompt: columns prompt_id, group, tokens, response, label."""
    sampled = replace(generation, temperature=temperature, seeds=(seed,))
    asked = {prompts.name: prompts}
    rows = evaluate(model, asked, grades={prompts.name: [grade]}, generation=sampled, folder=folder).table
    said = rows[rows["metric"] == "tokens"][["prompt_id", "group", "tokens"]]
    graded = rows[rows["metric"] == grade.name][["prompt_id", "response", "label"]]
    return said.merge(graded, on="prompt_id")


def opposites(task: SycophancyTask, kind: str, answers: pd.DataFrame) -> dict[str, str]:
    """{id of a claim to learn from: a text that is not wanted}: the task's own, else what the model itself said."""
    own = answers[answers["label"] == ANSWERS.shows]
    return dict(zip(own["prompt_id"], own["response"])) | dict(task.opposite.get(kind, {}))


def text_sides(tokenizer: Any, claims: PromptSet, opposite: Mapping[str, str], template: Any) -> Sides | None:
    """Unwanted and wanted text on the same claims; None where no claim has both."""
    both = claims.where(lambda p: p.id in opposite and str(p.completion) != opposite[p.id])
    if not len(both):
        return None
    other = Examples.from_texts(tokenizer, both, template=template)
    shown = Examples.from_texts(tokenizer, both, [opposite[p.id] for p in both], template=template)
    return Sides(shown, other)


def answer_sides(model: Model, claims: PromptSet, answers: pd.DataFrame, template: Any) -> Sides | None:
    """The model's own answers that agree, and those that correct; broken ones are left out."""
    ids = dict(zip(claims.ids, encode(model.tokenizer, claims, template=template)))
    found = []
    for label in (ANSWERS.shows, ANSWERS.well):
        rows = answers[(answers["label"] == label) & answers["tokens"].map(len).gt(0)]
        if rows.empty:
            return None
        prompts = tuple(tuple(ids[name]) for name in rows["prompt_id"])
        found.append(Examples(prompts, tuple(map(tuple, rows["tokens"])), tuple(rows["group"])))
    return Sides(*found)


def probe(
    model: Model,
    task: SycophancyTask,
    dictionary: Dictionary | None,
    settings: Settings,
    generation: Generation,
    answers: Mapping[str, pd.DataFrame],
    *,
    folder: str | Path | None = None,
) -> Probing:
    """Fit all kinds of probes of the contrast that the settings choose, and the first kind of every other.

    With a `folder` every probe is kept there as it is fitted.

    `answers` are the model's own to `WRONG` and `RIGHT` claims. Where the chosen contrast has too few claims on a side,
    as for a model that never agrees, that of prompts stands in, with a warning.
    """
    template, units = generation.template, units_of(model, dictionary)
    some = task.learn_wrong.take(settings.n_probe, seed=settings.seed)
    own = answer_sides(model, some, answers[WRONG], template)
    texts = text_sides(model.tokenizer, some, opposites(task, WRONG, answers[WRONG]), template)
    right = Examples.from_texts(
        model.tokenizer, task.learn_right.take(settings.n_probe, seed=settings.seed), template=template
    )
    both = None if texts is None else replace(texts, other=texts.other + right)
    sides = {"texts": texts, "both": both, "answers": own, "before": own}
    chosen: str = settings.probe
    if chosen in sides and _why_not(sides[chosen]):
        logger.warning("%s: %s; probes are of prompts instead", CONTRASTS[chosen], _why_not(sides[chosen]))
        chosen = "prompts"
    fit = partial(_fit, model, task, settings=settings, template=template, folder=folder)
    first, *_ = units
    fitted = {kind: fit(chosen, sides.get(chosen), read) for kind, read in units.items()}
    rows = [_row(model, CONTRASTS[chosen], kind, found) for kind, found in fitted.items()]
    for name in CONTRASTS:
        if name != chosen:
            rows.append(_row(model, CONTRASTS[name], first, fit(name, sides.get(name), units[first])))
    probes = {kind: found for kind, found in fitted.items() if isinstance(found, Probe)}
    if chosen in ("texts", "both"):
        rows += _on_right_claims(model, task, probes[first], first, units[first], answers, settings, template)
    if task.world and settings.elsewhere:
        rows += wavering(task, settings, generation, folder=folder)
    return Probing(probes, chosen, rows)


def units_of(model: Model, dictionary: Dictionary | None) -> dict[str, tuple[list[str | Dictionary], str]]:
    """{what is probed: (units, penalty)}, what the paper probes first."""
    units: dict[str, tuple[list[str | Dictionary], str]] = {}
    if dictionary is not None:
        units = {LATENTS: ([dictionary], "l2"), SPARSE: ([dictionary], "l1")}
    stream = stream_of(model, dictionary)
    if stream in sites.residual_sites(model):
        units[STREAM] = ([stream], "l2")
    return {**units, NEURONS: ([*sites.neuron_sites(model)], "l2")}


def stream_of(model: Model, dictionary: Dictionary | None) -> str:
    """Where the residual stream is probed: what the dictionary reads, or the middle of the model."""
    layer = model.cfg.n_layers // 2 if dictionary is None else max(0, sites.layer_of(dictionary.write_name))
    return sites.residual_sites(model)[layer]


def _why_not(sides: Sides | None) -> str:
    return "one side has no claim" if sides is None else sides.why_not


def _fit(
    model: Model,
    task: SycophancyTask,
    name: str,
    sides: Sides | None,
    units: tuple[list[str | Dictionary], str],
    *,
    settings: Settings,
    template: Any,
    folder: str | Path | None,
) -> Probe | str:
    """A probe of a contrast, kept in a folder by all that it depends on, or why there is none."""
    read, penalty = units
    how: dict[str, Any] = {"penalty": penalty, "seed": settings.seed, "folds": FOLDS, "nulls": settings.nulls}
    places = [one if isinstance(one, str) else one.digest for one in read]
    facts = [sites.fingerprint(model), name, places, how]
    if name == "prompts":
        both = (task.locate.positive, task.locate.negative)
        shown = [[encode(model.tokenizer, side, template=template), list(side.groups)] for side in both]
        fit = partial(fit_probe, model, task.locate, read, template=template, **how)
        return kept_probe(folder, key_of(["probe", facts, shown]), fit)
    if sides is None or sides.why_not:
        return _why_not(sides)
    fit = partial(fit_probe_on_examples, model, sides.shown, sides.other, read, read=_READ[name], **how)
    return kept_probe(folder, key_of(["probe", facts, asdict(sides)]), fit)


def _row(model: Model, contrast: str, kind: str, found: Probe | str) -> dict[str, Any]:
    """A probe as a row of the table: AUROC on held-out groups with its interval, and of shuffled labels."""
    row: dict[str, Any] = {"contrast": contrast, "probe": kind, "model": str(model.cfg.model_name)}
    if isinstance(found, str):
        return {**row, "note": f"not fitted: {found}"}
    null = f"{min(found.null):.2f} to {max(found.null):.2f}" if found.null else ""
    measured = {"AUROC": found.auroc, "low": found.low, "high": found.high, "shuffled labels": null}
    how = {"penalty": found.penalty.upper(), "C": found.strength}
    used = sum(int(weights.count_nonzero()) for weights in found.weights.values())
    return {**row, **measured, "n": found.n, "groups": found.groups, **how, "weights not zero": used, "note": ""}


def _on_right_claims(
    model: Model,
    task: SycophancyTask,
    found: Probe,
    kind: str,
    units: tuple[list[str | Dictionary], str],
    answers: Mapping[str, pd.DataFrame],
    settings: Settings,
    template: Any,
) -> list[dict[str, Any]]:
    """The same probe on right claims, where agreeing is honest: what reads "yes" alone calls it sycophantic too."""
    some = task.learn_right.take(settings.n_probe, seed=settings.seed)
    sides = text_sides(model.tokenizer, some, opposites(task, RIGHT, answers[RIGHT]), template)
    if sides is None:
        return []
    both = (sides.other, sides.shown)
    decided = [found.decision(example_activations(model, side, units[0])).tolist() for side in both]
    labels = [1] * len(decided[0]) + [0] * len(decided[1])
    groups = [*sides.other.groups, *sides.shown.groups]
    area, low, high = auroc(labels, [*decided[0], *decided[1]], groups, seed=settings.seed)
    row = {"contrast": TRANSFER, "probe": kind}
    note = "about 1: it reads agreement, right or wrong; about 0: it reads what is untrue"
    own = {"AUROC": area, "low": low, "high": high, "n": len(labels), "groups": len(set(groups)), "note": note}
    return [{**row, "model": str(model.cfg.model_name), **own}]


def wavering(
    task: SycophancyTask, settings: Settings, generation: Generation, *, folder: str | Path | None = None
) -> list[dict[str, Any]]:
    """Whether it can be read before an answer that a model will agree: rows of the wavering organism's own answers."""
    model = load_model(WAVERING, device=settings.device)
    some = task.learn_wrong.take(settings.n_probe, seed=settings.seed)
    answers = own_answers(model, some, task.grades[WRONG], generation, seed=settings.seed, folder=folder)
    sides = answer_sides(model, some, answers, generation.template)
    units = units_of(model, None)[STREAM]
    fit = partial(_fit, model, task, settings=settings, template=generation.template, folder=folder)
    return [_row(model, CONTRASTS[name], STREAM, fit(name, sides, units)) for name in ("before", "answers")]
