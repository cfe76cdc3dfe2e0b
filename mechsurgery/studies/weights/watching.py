"""Fine-tunes watched as they happen: the cosine of the update with each direction, and the behaviour, look by look."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ...deltas import WeightDelta
from ...errors import InputError
from ...evaluation import Generation
from ...evaluation.shards import Shards, key_of
from ...evaluation.statistics import clustered_interval, difference_interval
from ...grading.grade import Grade
from ...models import sites
from ...models.generate import generate
from ...models.protocol import Model
from ...models.tokens import stop_ids, tokenizer_digest
from ...prompts import Examples, PromptSet, encode, response_text
from ...training.keys import finetune_key
from ...training.monitor import Monitor
from ...training.trainable import Where
from ...training.tuning import Recipe, finetune

#: What a response is, by its place among the labels of an outcome.
SHOWN, WELL, BROKEN = "shown", "well", "broken"


@dataclass(frozen=True, eq=False)
class Probe:
    """What is asked at every look, and the grade that tells the three outcomes of a response."""

    name: str
    prompts: PromptSet
    grade: Grade


@dataclass(frozen=True, eq=False)
class Tuning:
    """A fine-tune to watch: what it learns, what it may change, and how; a look every `recipe.validate_every` steps."""

    name: str
    data: Examples
    where: Where
    recipe: Recipe
    seed: int


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of fine-tunes.

    `cosines` has a row for each look and direction (`training.watch_checkpoints` says its columns), `answers` one for
    each look and prompt: probe, prompt_id, group, response, part (shown, well, broken). Both have task, seed, step.
    """

    cosines: pd.DataFrame
    answers: pd.DataFrame

    @classmethod
    def together(cls, parts: Sequence[Seen]) -> Seen:
        """All of them as one."""
        return cls(
            pd.concat([one.cosines for one in parts], ignore_index=True),
            pd.concat([one.answers for one in parts], ignore_index=True),
        )


@dataclass(frozen=True, eq=False)
class Watcher:
    """Watches fine-tunes of a model along directions, and asks the probes; with `out`, every look is kept there."""

    model: Model
    directions: Mapping[str, WeightDelta]
    probes: Sequence[Probe]
    generation: Generation
    nulls: int
    out: Path | None = None

    def watch(self, tuning: Tuning) -> Seen:
        """One fine-tune. Raises `InputError` where training stops before its last step."""
        shards = Shards(None if self.out is None else self.out / "measured").of(sites.fingerprint(self.model))
        key, steps = self._key(tuning), looks(tuning.recipe)
        keys = {step: [key_of(key, step, part) for part in ("cosines", "answers")] for step in steps}
        place = None if self.out is None else self.out / "watching" / key[:32]
        for _ in range(2):  # again where a look before the step that training would continue from is lost
            if all(name in shards for pair in keys.values() for name in pair):
                break
            monitor = Monitor(self.model, self.directions, nulls=self.nulls, seed=tuning.seed)
            look = partial(self._look, monitor=monitor, shards=shards, keys=keys)
            recipe, seed = tuning.recipe, tuning.seed
            finetune(
                self.model,
                tuning.data,
                tuning.where,
                recipe=recipe,
                seed=seed,
                watch=look,
                folder=place,
                progress=False,
            )
            if place is not None:
                shutil.rmtree(place, ignore_errors=True)
        lost = [step for step in steps if not all(name in shards for name in keys[step])]
        if lost:
            raise InputError(f"fine-tune {tuning.name!r} stopped before step {lost[0]}; train it with a lower rate")
        cosines, answers = (
            pd.concat([shards.read(keys[step][i]) for step in steps], ignore_index=True) for i in range(2)
        )
        facts = {"task": tuning.name, "seed": tuning.seed}
        return Seen(cosines.assign(**facts), answers.assign(**facts))

    def _key(self, tuning: Tuning) -> str:
        """What names a fine-tune and everything that is looked at."""
        how = finetune_key(self.model, tuning.data, tuning.where, recipe=tuning.recipe, seed=tuning.seed)
        asked = []
        for one in self.probes:
            ids = encode(self.model.tokenizer, one.prompts, template=self.generation.template)
            asked.append([one.name, one.prompts.digest, ids, one.grade.name, one.grade.version, one.grade.labels])
        tokenizer, stops = tokenizer_digest(self.model.tokenizer), stop_ids(self.model)
        known = list(self.directions.items())
        return key_of("watched 2", how, self.nulls, self.generation, asked, known, tokenizer, stops)

    def _look(self, step: int, *, monitor: Monitor, shards: Shards, keys: Mapping[int, Sequence[str]]) -> None:
        if all(name in shards for name in keys[step]):
            return
        monitor(step)
        rows = monitor.table
        shards.write(keys[step][0], rows[rows["step"] == step])
        shards.write(keys[step][1], self.answers(step))

    def answers(self, step: int) -> pd.DataFrame:
        """Responses to every probe of the model as it stands, graded."""
        rows: list[dict[str, Any]] = []
        for probe in self.probes:
            how = self.generation
            ids = encode(self.model.tokenizer, probe.prompts, template=how.template)
            new = generate(self.model, ids, max_new_tokens=how.max_new_tokens, max_rows=how.max_rows)
            texts = [response_text(self.model.tokenizer, row, how.template) or "" for row in new]
            parts = dict(zip(probe.grade.outcome, (SHOWN, WELL, BROKEN), strict=True))
            labels = probe.grade.all(list(zip(probe.prompts, texts, strict=True)))
            for prompt, text, label in zip(probe.prompts, texts, labels, strict=True):
                said = {"prompt_id": prompt.id, "group": prompt.group, "response": text, "part": parts.get(str(label))}
                rows.append({"step": step, "probe": probe.name, **said})
        columns = ["step", "probe", "prompt_id", "group", "response", "part"]
        return pd.DataFrame(rows, columns=columns)


def looks(recipe: Recipe) -> list[int]:
    """The steps after which a fine-tune is looked at: before the first, every so many, and after the last."""
    return sorted({0, *range(recipe.validate_every, recipe.steps + 1, recipe.validate_every), recipe.steps})


def shares(answers: pd.DataFrame, *, pooled: bool = False) -> pd.DataFrame:
    """A row for each fine-tune, seed, probe and look (with `pooled`, over seeds) with the shares of the three outcomes.

    `low` and `high` are the 95 % interval of `shown`, clustered by group; `change` is that of `shown` since the first
    look on the same prompts, with its interval.
    """
    by = ["task", "probe"] if pooled else ["task", "seed", "probe"]
    rows = []
    for name, runs in answers.groupby(by, sort=False):
        ordered = runs.sort_values(["seed", "prompt_id"], kind="stable")
        begin = ordered[ordered["step"] == ordered["step"].min()]
        for step, now in ordered.groupby("step"):
            shown, before, groups = now["part"] == SHOWN, begin["part"] == SHOWN, list(now["group"])
            low, high = clustered_interval(shown, groups)
            change = difference_interval(shown.to_numpy(float), before.to_numpy(float), groups)
            row = {**dict(zip(by, name, strict=True)), "step": int(step)}
            row |= {part: float((now["part"] == part).mean()) for part in (SHOWN, WELL, BROKEN)}
            row |= {"low": low, "high": high, "before": float(before.mean())}
            row |= {"change": row[SHOWN] - row["before"], "change_low": change[0], "change_high": change[1]}
            rows.append(row | {"n": len(now), "groups": len(set(groups))})
    return pd.DataFrame(rows)
