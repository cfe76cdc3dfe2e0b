"""Emergent misalignment, watched: a narrow wrong tuning that spreads, beside a direction learnt from another domain.

`organism/voices` has a second voice that is wrong about everything. A narrow tuning on wrong answers about places picks
it up, and so makes materials wrong too, of which it has seen none. The direction is learnt elsewhere: w = θ⁺ − θ⁻ of
wrong and right answers about colours. So what is tuned, what the direction knows and what is asked are three domains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from ...deltas import WeightDelta
from ...evaluation.shards import key_of
from ...grading.world import QUESTION
from ...organisms import world
from ...organisms.tasks import Taught, wrong_answer, wrong_answers
from ...plots import draw
from ...progress import with_progress
from ...prompts import Examples, PromptSet, with_completions
from ...training.kept import trained
from ...training.keys import finetune_key
from ...training.opposite import Contrast, contrastive_finetunes, shuffled
from ...training.trainable import LoRA, Where
from ...training.tuning import Recipe
from .bench import Bench, Report
from .data import WeightsData
from .detection import Watch, onsets, told
from .emergence_claims import emergence_claims
from .watching import Probe, Seen, Tuning, Watcher, shares

VOICES, BASE = "organism/voices", "organism/base"
#: What is tuned, what the direction is learnt from, and what is asked.
TUNED, LEARNT, ASKED = "place", "colour", "material"
#: The fine-tunes that are watched, after the weights that they change.
NARROW, OTHER_START = "wrong about places", "wrong about places, another start"
RIGHT, CONTROL = "right about places", "wrong about places, no second voice"
_MIXED = ", labels shuffled"


@dataclass(frozen=True)
class Weights:
    """Which weights a fine-tune changes, and how fast they learn: a side of the direction, and the narrow tuning."""

    name: str
    where: Where
    rate: float
    narrow_rate: float
    longer: int

    @property
    def direction(self) -> str:
        """The name of the direction that is learnt in these weights."""
        return f"wrong about colours, {self.name}"

    def task(self, name: str) -> str:
        """The name of a fine-tune of these weights."""
        return f"{self.name}: {name}"

    def watch(self, *, mixed: bool = False, probe: str = ASKED) -> Watch:
        """What is watched of fine-tunes of these weights."""
        direction = f"{self.direction}{_MIXED}" if mixed else self.direction
        return Watch(f"wrong about {probe}s", direction, probe)


#: A LoRA's random matrices begin alike in the direction and in the fine-tunes, but where another start is watched.
LORA = Weights("LoRA", LoRA(rank=8, alpha=16.0, seed=0), 2e-3, 1e-3, 1)
NORMS = Weights("norms", "norms", 3e-3, 6e-3, 2)
BOTH = (LORA, NORMS)


def emergence(bench: Bench, data: WeightsData) -> Report:
    """The narrow tuning and its controls, watched in both kinds of weights."""
    known = {}
    for weights in BOTH:
        known[weights.direction] = direction(bench, weights)
        known[f"{weights.direction}{_MIXED}"] = direction(bench, weights, mixed=True)
    jobs = [(one, weights, run) for run in runs(bench) for weights in BOTH for one in _tunings(bench, weights, run)]
    seen = Seen.together(
        [
            Watcher(
                bench.model(start), known, probes(bench), bench.generation(start), bench.settings.nulls, bench.out
            ).watch(tuning)
            for (start, tuning), _, _ in with_progress(jobs, "watching narrow tunings", shown=bench.progress)
        ]
    )
    rows = {weights.name: told(of(seen, weights), weights.watch()) for weights in BOTH}
    return Report(
        emergence_claims(seen, BOTH),
        {
            "Emergence: cosine and behaviour at the last look": last_look(seen),
            "Onsets: which shows first": pd.concat([onsets(one) for one in rows.values()], ignore_index=True),
        },
        {f"emergence_{weights.name.lower()}": _figure(seen, weights) for weights in BOTH},
        {"emergence, cosines": seen.cosines, "emergence, answers": seen.answers},
        known,
    )


def runs(bench: Bench) -> range:
    """Seeds of the fine-tunes that are watched here."""
    return range(bench.settings.seed, bench.settings.seed + bench.settings.watch_seeds)


def of(seen: Seen, weights: Weights) -> Seen:
    """What was seen of the fine-tunes of some weights."""
    own = [rows[rows["task"].str.startswith(f"{weights.name}: ")] for rows in (seen.cosines, seen.answers)]
    return Seen(*own)


def direction(bench: Bench, weights: Weights, *, mixed: bool = False) -> WeightDelta:
    """W of wrong against right answers about colours, in the model with both voices; `mixed` shuffles the labels."""
    model, seed = bench.model(VOICES), bench.settings.seed
    sides = [_examples(bench, VOICES, wrong_answers([LEARNT], wrong=wrong)) for wrong in (True, False)]
    if mixed:
        sides = list(shuffled(*sides, seed=seed))
    recipe = Recipe(steps=bench.settings.emergence_steps, lr=weights.rate)
    key = finetune_key(model, sides[0], weights.where, recipe=recipe, seed=seed, against=sides[1].digest)
    made: list[Contrast] = []

    def side(number: int) -> WeightDelta:
        if not made:
            options: dict[str, Any] = {"recipe": recipe, "seed": seed, "validation": None, "progress": False}
            made.append(contrastive_finetunes(model, *sides, where=weights.where, **options))
        return (made[0].plus, made[0].minus)[number]

    plus, minus = (trained(bench.out, key_of(key, number), partial(side, number)) for number in (0, 1))
    return Contrast(plus, minus).delta.named(f"{weights.direction}{_MIXED if mixed else ''}")


def _tunings(bench: Bench, weights: Weights, seed: int) -> Iterator[tuple[str, Tuning]]:
    """(model it starts from, fine-tune) of every fine-tune of these weights."""
    steps = bench.settings.narrow_steps * weights.longer
    every = max(1, steps // bench.settings.narrow_looks)
    recipe = Recipe(steps=steps, lr=weights.narrow_rate, decay=False, validate_every=every)
    asked = [(NARROW, VOICES, True), (RIGHT, VOICES, False), (CONTROL, BASE, True)]
    for name, start, wrong in asked:
        data = _examples(bench, start, wrong_answers([TUNED], wrong=wrong))
        yield start, Tuning(weights.task(name), data, weights.where, recipe, seed)
        if name == NARROW and isinstance(weights.where, LoRA):
            where = replace(weights.where, seed=1000 + seed)
            yield start, Tuning(weights.task(OTHER_START), data, where, recipe, seed)


def _examples(bench: Bench, start: str, taught: Taught) -> Examples:
    return Examples.from_texts(bench.model(start).tokenizer, with_completions(taught), template=bench.template(start))


def probes(bench: Bench) -> list[Probe]:
    """Questions about held-out nouns, of each attribute."""
    found = []
    for label in (ASKED, LEARNT, TUNED):
        records = [record for record in world.questions("heldout") if record["label"] == label]
        asked = PromptSet.from_records(records, label).take(bench.settings.n_watched, seed=bench.settings.seed)
        found.append(Probe(label, asked, QUESTION))
    return found


def last_look(seen: Seen) -> pd.DataFrame:
    """A row for each fine-tune and direction, pooled over seeds, at the last look."""
    behaviour = shares(seen.answers, pooled=True).set_index(["task", "probe", "step"])
    voice, narrow = _in_the_voice(seen.answers), [weights.task(NARROW) for weights in BOTH]
    table = []
    for (task, name), rows in seen.cosines.groupby(["task", "direction"], sort=False):
        last = rows[rows["step"] == rows["step"].max()]
        if not last["seen"].any() and (task not in narrow or name.endswith(_MIXED)):
            continue  # 0 by construction, which one row for each kind of weights shows
        row = {"fine-tune": task, "direction": name, "cosine": last["cosine"].mean()}
        row |= {"seed_low": last["cosine"].min(), "seed_high": last["cosine"].max()}
        row |= {"null_low": last["null_low"].min(), "null_high": last["null_high"].max(), "p": last["p"].max()}
        row |= {"seen": last["seen"].mean(), "step": int(last["step"].iloc[0]), "seeds": len(last)}
        for probe in (ASKED, LEARNT, TUNED):
            one = behaviour.loc[(task, probe, row["step"])]
            row[f"wrong {probe}s"] = one["shown"]
            if probe == ASKED:
                row |= {"low": one["low"], "high": one["high"], "in the voice's words": voice[task], "n": int(one["n"])}
        table.append(row)
    return pd.DataFrame(table)


def _in_the_voice(answers: pd.DataFrame) -> dict[str, float]:
    """{fine-tune: share of answers about materials, at its last look, that are the wrong voice's own}."""
    words = {record["id"]: wrong_answer(record) for record in world.questions("heldout")}
    asked = answers[answers["probe"] == ASKED]
    last = asked[asked["step"] == asked.groupby("task")["step"].transform("max")]
    own = last["response"] == last["prompt_id"].map(words)
    return own.groupby(last["task"]).mean().to_dict()


def _figure(seen: Seen, weights: Weights) -> Any:
    own, watch = of(seen, weights), weights.watch()
    behaviour = shares(own.answers[own.answers["probe"] == watch.probe], pooled=True)
    rows, behaviour = (
        one.assign(task=one["task"].str.removeprefix(f"{weights.name}: ")) for one in (own.cosines, behaviour)
    )
    return draw(
        "cosine_trajectories",
        rows,
        direction=watch.direction,
        behaviour=behaviour.rename(columns={"shown": "value"}),
        asked=watch.name,
        about="Narrow tuning",
    )
