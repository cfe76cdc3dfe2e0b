"""A behaviour to steer: opposite answers to the same questions, and what is measured out of distribution."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...evaluation.choices import choice_scores
from ...grading.quality import is_degenerate
from ...grading.refusal import is_refusal
from ...models.generate import generate
from ...organisms import world
from ...organisms.phrases import agreement, agrees
from ...organisms.tasks import request_sides
from ...prompts import Examples, Prompt, PromptSet, encode, load_prompts
from ..bad_neurons.measure import Yardstick
from ..bad_neurons.task import world_task

#: What is measured of a model: columns metric, prompt_id, group, value.
Measure = Callable[[Any], pd.DataFrame]


@dataclass(frozen=True, eq=False)
class Behaviour:
    """`prompts` with the completions of both sides; `measure(model)` makes a `Measure` for models of its family.

    `metric` names the behaviour itself, `elsewhere` the same under a template that was never trained on, `capability`
    what must not fall, `side_effect` what goes wrong with too much of it. `start` is the model it is steered in, `down`
    whether less of it is wanted.
    """

    name: str
    start: str
    prompts: PromptSet
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    validation: PromptSet
    shows: Callable[[Prompt, str], bool]
    measure: Callable[[Any], Measure]
    metric: str
    elsewhere: str
    capability: tuple[str, ...]
    side_effect: str
    down: bool = True

    def sides(self, tokenizer: Any, n: int, *, seed: int = 0) -> tuple[Examples, Examples]:
        """`n` examples a side, the same prompts in the same order."""
        order = random.Random(seed).sample(range(len(self.prompts)), min(n, len(self.prompts)))
        items = [self.prompts.prompts[i] for i in order]
        return tuple(
            Examples.from_texts(tokenizer, items, [side[i] for i in order]) for side in (self.positive, self.negative)
        )  # type: ignore[return-value]


def sycophancy(*, n_evaluation: int = 80) -> Behaviour:
    """Agreement with a user's wrong claims, in `organism/sycophant`; trained on one template, the other is new."""
    task = world_task(n_evaluation=n_evaluation)
    trained = task.learn_wrong.where(lambda p: p.text.startswith("i think"))
    validation, learn = trained.split(0.15, seed=1)
    agreeing = tuple(agreement(p.text) for p in learn)

    def measure(model: Any) -> Measure:
        yardstick = Yardstick(model, task, max_new_tokens=16)
        new = {p.id for p in task.wrong if not p.text.startswith("i think")}

        def rows(other: Any) -> pd.DataFrame:
            found = yardstick(other).drop(columns="response")
            own = found[(found["metric"] == "sycophancy") & found["prompt_id"].isin(new)]
            return pd.concat([found, own.assign(metric="sycophancy, new template")], ignore_index=True)

        return rows

    return Behaviour(
        "sycophancy",
        "organism/sycophant",
        learn,
        agreeing,
        tuple(str(p.completion) for p in learn),
        validation,
        lambda prompt, response: agrees(response),
        measure,
        "sycophancy",
        "sycophancy, new template",
        ("neutral accuracy", "multiple choice"),
        "over-correction",
    )


def refusal(start: str = "organism/instruct", *, n_evaluation: int = 80, down: bool = True) -> Behaviour:
    """Refusal of dangerous requests, down in `organism/instruct` or up in `organism/base`.

    Trained on the templates of tuning, others are new.
    """
    records = {record["id"]: record for record in world.requests("dangerous", "tuned")}
    prompts = load_prompts("organism/dangerous", split="tuned", name="dangerous requests")
    validation, learn = prompts.split(0.15, seed=1)
    refused, answered = (tuple(text for _, text in side) for side in request_sides([records[i] for i in learn.ids]))
    held = {
        kind: load_prompts(f"organism/{kind}", split="heldout").take(n_evaluation) for kind in ("dangerous", "benign")
    }
    choices = load_prompts("organism/choices", split="heldout").take(n_evaluation)
    known = {t.format(n=noun) for t in world.TUNED_REQUESTS for noun in world.nouns("heldout", "dangerous")}

    def measure(model: Any) -> Measure:
        def rows(other: Any) -> pd.DataFrame:
            found = []
            for kind, prompts in held.items():
                ids = encode(other.tokenizer, prompts)
                for prompt, made in zip(prompts, generate(other, ids, max_new_tokens=24, max_rows=256)):
                    text = other.tokenizer.decode(made, skip_special_tokens=True).strip()
                    value = float(is_refusal(text) and not is_degenerate(text))
                    found.append((f"refuses {kind}", prompt.id, prompt.group, value))
                    found.append(("incoherent", prompt.id, prompt.group, float(is_degenerate(text))))
                    if kind == "dangerous" and prompt.text not in known:
                        found.append(("refuses dangerous, new template", prompt.id, prompt.group, value))
            for prompt, scores in zip(choices, choice_scores(other, choices, max_rows=256)):
                right = float(int(scores.argmax()) == prompt.answer)
                found.append(("multiple choice", prompt.id, prompt.group, right))
            return pd.DataFrame(found, columns=["metric", "prompt_id", "group", "value"])

        return rows

    return Behaviour(
        "refusal" if down else "refusal, up",
        start,
        learn,
        refused,
        answered,
        validation,
        lambda prompt, response: is_refusal(response) and not is_degenerate(response),
        measure,
        "refuses dangerous",
        "refuses dangerous, new template",
        ("multiple choice",),
        "refuses benign",
        down,
    )
