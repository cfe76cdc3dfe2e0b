"""Behaviours as data: what to learn from with both sides' answers, what to measure, and tasks that make them drift."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...errors import InputError, listed
from ...evaluation.benchmarks import Benchmark
from ...evaluation.trade_off import Quantity
from ...grading.grade import BROKEN, Grade
from ...grading.world import CLAIM, ONE_WORD, QUESTION, REQUEST, RIGHT_CLAIM
from ...organisms import world
from ...organisms.phrases import agreement
from ...organisms.tasks import FINE_TUNES, FineTune, answered_claims, request_sides
from ...prompts import Examples, Prompt, PromptSet, Template, check_no_overlap, load_prompts, with_completions
from .settings import Settings

#: Names of the prompt sets in the table of results.
WRONG, RIGHT, NEUTRAL, CHOICES = "wrong claims", "right claims", "neutral questions", "multiple choice"
DANGEROUS, BENIGN, REFERENCE, QUESTIONS = "dangerous requests", "benign requests", "neutral text", "questions"
#: The metric of the skill that tasks teach.
SKILL = "skill"
_ANSWER = {WRONG: CLAIM, RIGHT: RIGHT_CLAIM, NEUTRAL: QUESTION}


def checked_set(name: str) -> str:
    """The name of the validation prompts of a set."""
    return f"{name}, validation"


def new(name: str) -> str:
    """The name of a set or a metric under templates never trained on."""
    return f"{name}, new template"


@dataclass(frozen=True, eq=False)
class Measured:
    """Prompt sets by name with their grades, and what is read off them.

    `metrics` are named quantities, `validation` the same on prompts that choose strengths and layers. The KL divergence
    is measured on the sets `kl_on`.
    """

    sets: Mapping[str, PromptSet]
    grades: Mapping[str, Sequence[Grade]]
    metrics: Mapping[str, Quantity]
    validation: Mapping[str, Quantity]
    kl_on: tuple[str, ...] = ()

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            {**self.sets, **other.sets},
            {**self.grades, **other.grades},
            {**self.metrics, **other.metrics},
            {**self.validation, **other.validation},
            self.kl_on + other.kl_on,
        )

    def tests(self) -> Measured:
        """Everything but the validation prompts."""
        names = {one[1] for one in self.validation.values()}
        sets = {name: prompts for name, prompts in self.sets.items() if name not in names}
        grades = {name: self.grades[name] for name in sets if name in self.grades}
        return Measured(sets, grades, self.metrics, {}, self.kl_on)

    def checks(self, n: int) -> Measured:
        """At most `n` validation prompts of each set, read under the names of the metrics that they choose by."""
        names = {one[1] for one in self.validation.values()}
        sets = {name: prompts.take(n) for name, prompts in self.sets.items() if name in names}
        return Measured(sets, {name: self.grades[name] for name in sets if name in self.grades}, self.validation, {})

    @classmethod
    def checked_by(
        cls,
        validation: Mapping[str, PromptSet],
        sets: Mapping[str, PromptSet],
        grades: Mapping[str, Sequence[Grade]],
        metrics: Mapping[str, Quantity],
        kl_on: tuple[str, ...] = (),
    ) -> Measured:
        """Sets of which some have `validation` prompts, graded and read in the same way."""
        names = {name: checked_set(name) for name in validation}
        return cls(
            {**sets, **{names[name]: prompts for name, prompts in validation.items()}},
            {**grades, **{names[name]: grades[name] for name in names if name in grades}},
            metrics,
            {key: (one[0], names[one[1]], *one[2:]) for key, one in metrics.items() if one[1] in names},
            kl_on,
        )


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What is steered, in the model `start`: less or more of it is `wanted`.

    `learn` are prompts with the answers of a model that has the behaviour (`positive`) and of one that has not. Of the
    metrics `measured`, `shown` is the behaviour itself and `opposite` its opposite done well, on the prompts `where`;
    `capability` is what must not fall, `broken` what must not become more, `side_effect` what too much of it does.
    `asked` are system prompts that ask for what is wanted; with `both_starts`, w is also made of sides that start from
    different random LoRA matrices.
    """

    name: str
    start: str
    wanted: Literal["less", "more"]
    learn: PromptSet
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    measured: Measured
    where: str
    shown: str
    opposite: str
    capability: tuple[str, ...]
    broken: tuple[str, ...]
    side_effect: str | None = None
    asked: tuple[str, ...] = ()
    both_starts: bool = False

    def __post_init__(self) -> None:
        for name, prompts in self.measured.sets.items():
            if name not in self.measured.kl_on:
                check_no_overlap(self.learn, prompts, by="group")

    @property
    def sign(self) -> int:
        """Which way it is to be pushed: 1 toward the behaviour, −1 against it."""
        return 1 if self.wanted == "more" else -1

    @property
    def well(self) -> str:
        """The metric of what is wanted done well: the opposite where less is wanted, the behaviour where more is."""
        return self.shown if self.wanted == "more" else self.opposite

    @property
    def in_new_words(self) -> bool:
        """Whether there are prompts in words that were never trained on."""
        return new(self.where) in self.measured.sets

    @property
    def grade(self) -> Grade:
        """The grade that tells the three outcomes on the prompts `where`."""
        return next(one for one in self.measured.grades[self.where] if one.name == "outcome")

    @property
    def wanted_label(self) -> str:
        """The label of a response that does well what is wanted."""
        return self.grade.outcome.shows if self.wanted == "more" else self.grade.outcome.well

    @property
    def probe(self) -> tuple[PromptSet, Grade]:
        """Validation prompts, and the grade of responses to them."""
        return self.measured.sets[checked_set(self.where)], self.grade

    def beside_controls(self, n: int) -> Measured:
        """The outcomes on `n` of the prompts, on which controls are set beside what they control."""
        metrics = {key: one for key, one in self.measured.metrics.items() if one[:2] == ("outcome", self.where)}
        return Measured({self.where: self.measured.sets[self.where].take(n)}, {self.where: [self.grade]}, metrics, {})

    def sides(self, tokenizer: Any, n: int, *, seed: int, template: str | Template = "auto") -> list[Examples]:
        """`n` examples with the behaviour and `n` without, the same prompts in the same order."""
        order = random.Random(seed).sample(range(len(self.learn)), min(n, len(self.learn)))
        items = [self.learn.prompts[i] for i in order]
        answers = [[side[i] for i in order] for side in (self.positive, self.negative)]
        return [Examples.from_texts(tokenizer, items, side, template=template) for side in answers]


@dataclass(frozen=True, eq=False)
class OwnTask:
    """A task of your own: prompts to learn from, each with the wanted answer as its completion."""

    name: str
    learn: PromptSet


@dataclass(frozen=True, eq=False)
class Drift:
    """A task that moves a behaviour of the model `start` unasked: toward it (`pushes` 1) or against it (−1).

    `asked` are system prompts that ask for what the model did before, a rival of every remedy.
    """

    behaviour: Behaviour
    start: str
    task: FineTune | OwnTask
    pushes: Literal[1, -1]
    asked: tuple[str, ...] = ()

    @property
    def well(self) -> str:
        """The metric of what the model did well before the task."""
        return self.behaviour.opposite if self.pushes > 0 else self.behaviour.shown

    @property
    def well_label(self) -> str:
        """The label of a response that does it."""
        outcome = self.behaviour.grade.outcome
        return outcome.well if self.pushes > 0 else outcome.shows

    @property
    def spoilt(self) -> str:
        """The metric of what the task makes it do instead."""
        return self.behaviour.shown if self.pushes > 0 else self.behaviour.opposite


@dataclass(frozen=True, eq=False)
class WeightsData:
    """Behaviours to steer, drifts to repair, the skill that tasks teach, and the model whose fine-tunes are watched.

    `benchmarks` stand beside; None are those of the settings.
    """

    behaviours: tuple[Behaviour, ...]
    drifts: tuple[Drift, ...]
    skill: Measured
    watched: str
    benchmarks: tuple[Benchmark, ...] | None = None

    def describe(self) -> dict[str, dict[str, Any]]:
        """Size and content digest of every prompt set, by behaviour."""
        parts = {one.name: {"learn": one.learn, **one.measured.sets} for one in self.behaviours}
        return {
            part: {name: {"n": len(prompts), "digest": prompts.digest[:16]} for name, prompts in sets.items()}
            for part, sets in {**parts, SKILL: self.skill.sets}.items()
        }


#: Behaviours of the organisms; refusal up, in a base that never refuses, takes some 300 steps and is asked for by name.
WORLD = ("sycophancy", "sycophancy, up", "refusal", "refusal, up")


def world_data(settings: Settings) -> WeightsData:
    """The organisms' world: behaviours learnt on nouns of tuning, measured on held-out ones.

    Raises `InputError` for a behaviour that it has not.
    """
    n, rubric = settings.n_evaluation, settings.rubric()
    agreeing, refusing = sycophancy(n), refusal("refusal", "organism/instruct", "less", n, rubric)
    known = {
        "sycophancy": replace(agreeing, both_starts=True),
        "sycophancy, up": replace(agreeing, name="sycophancy, up", start="organism/sycophant-twin", wanted="more"),
        "refusal": refusing,
        "refusal, up": refusal("refusal, up", "organism/base", "more", n, rubric),
    }
    unknown = [name for name in settings.behaviour if name not in known]
    if unknown:
        raise InputError(f"the organisms have no behaviour {listed(unknown)}; theirs are {listed(WORLD)}")
    wanted = settings.behaviour or WORLD[:-1]
    tasks = {kind.name: kind for kind in FINE_TUNES}
    asked = load_prompts("organism/questions", n=60, name=QUESTIONS)
    others = load_prompts("organism/questions").where(lambda p: p.id not in set(asked.ids)).take(60)
    skill: dict[str, Quantity] = {SKILL: (ONE_WORD.name, QUESTIONS)}
    drifts = (
        Drift(agreeing, "organism/sycophant-twin", tasks["task, users always right"], 1),
        Drift(refusing, "organism/instruct", tasks["task, every request answered"], -1),
    )
    return WeightsData(
        behaviours=tuple(known[name] for name in wanted),
        drifts=tuple(drift for drift in drifts if not settings.behaviour or drift.behaviour.name in settings.behaviour),
        skill=Measured.checked_by({QUESTIONS: others}, {QUESTIONS: asked}, {QUESTIONS: [ONE_WORD]}, skill),
        watched="organism/instruct",
    )


def sycophancy(n: int) -> Behaviour:
    """Agreement with a user's wrong claims, in `organism/sycophant`; trained on one template, the other is new."""
    claims = [claim for claim in world.claims("tuned", right=False) if claim["text"].startswith("i think")]
    held_back, learn = with_completions(answered_claims(claims, right=False), WRONG).split(0.15, seed=1)
    nouns = held_back.groups
    checked = load_prompts("organism/wrong-claims", split="tuned", name=WRONG)
    measured = Measured.checked_by(
        {
            WRONG: checked.where(lambda p: p.group in nouns and p.text.startswith("i think")).take(n),
            NEUTRAL: _tuned("questions", NEUTRAL, n, nouns),
            CHOICES: _tuned("choices", CHOICES, n, nouns),
        },
        {
            **_templates("wrong-claims", WRONG, n, lambda p: p.text.startswith("i think")),
            RIGHT: _held("right-claims", RIGHT, n),
            NEUTRAL: _held("questions", NEUTRAL, n),
            CHOICES: _held("choices", CHOICES, n),
            REFERENCE: load_prompts("organism/neutral", split="tuned", name=REFERENCE, n=100).take(50),
        },
        {new(WRONG): [_ANSWER[WRONG]], **{name: [grade] for name, grade in _ANSWER.items()}},
        {
            **_outcomes(WRONG, CLAIM, "sycophancy", "corrects"),
            "over-correction": ("outcome", RIGHT, "bad"),
            "neutral accuracy": ("outcome", NEUTRAL, "good"),
            **{_broken(name): ("outcome", name, BROKEN) for name in (RIGHT, NEUTRAL)},
            CHOICES: ("choice", CHOICES),
            "KL on neutral text": ("kl", REFERENCE),
        },
        kl_on=(REFERENCE,),
    )
    return Behaviour(
        name="sycophancy",
        start="organism/sycophant",
        wanted="less",
        learn=learn,
        positive=tuple(agreement(p.text) for p in learn),
        negative=tuple(str(p.completion) for p in learn),
        measured=measured,
        where=WRONG,
        shown="sycophancy",
        opposite="corrects",
        capability=("neutral accuracy", CHOICES),
        broken=(_broken(WRONG), _broken(NEUTRAL)),
        side_effect="over-correction",
    )


def refusal(name: str, start: str, wanted: Literal["less", "more"], n: int, rubric: Sequence[Grade] = ()) -> Behaviour:
    """Refusal of dangerous requests; trained on the templates of tuning, others are new.

    Grades in `rubric`, as StrongREJECT's, read the held-out ones too.
    """
    records = {record["id"]: record for record in world.requests("dangerous", "tuned")}
    prompts = load_prompts("organism/dangerous", split="tuned", name=DANGEROUS)
    validation, learn = prompts.split(0.15, seed=1)
    refused, answered = (tuple(text for _, text in side) for side in request_sides([records[i] for i in learn.ids]))
    known = {t.format(n=noun) for t in world.TUNED_REQUESTS for noun in world.nouns("heldout", "dangerous")}
    measured = Measured.checked_by(
        {DANGEROUS: validation.take(n), CHOICES: _tuned("choices", CHOICES, n, validation.groups)},
        {
            **_templates("dangerous", DANGEROUS, n, lambda p: p.text in known),
            BENIGN: _held("benign", BENIGN, n),
            CHOICES: _held("choices", CHOICES, n),
        },
        {new(DANGEROUS): [REQUEST], BENIGN: [REQUEST], DANGEROUS: [REQUEST, *rubric]},
        {
            **_outcomes(DANGEROUS, REQUEST, "refuses dangerous", "complies with dangerous"),
            "refuses benign": ("outcome", BENIGN, "refuses"),
            "complies with benign": ("outcome", BENIGN, "complies"),
            _broken(BENIGN): ("outcome", BENIGN, BROKEN),
            **{one.name: (one.name, DANGEROUS) for one in rubric},
            CHOICES: ("choice", CHOICES),
        },
    )
    return Behaviour(
        name=name,
        start=start,
        wanted=wanted,
        learn=learn,
        positive=refused,
        negative=answered,
        measured=measured,
        where=DANGEROUS,
        shown="refuses dangerous",
        opposite="complies with dangerous",
        capability=(CHOICES,),
        broken=(_broken(DANGEROUS),),
        side_effect="refuses benign",
    )


def _held(kind: str, name: str, n: int) -> PromptSet:
    """Prompts of the world about held-out nouns."""
    return load_prompts(f"organism/{kind}", n=n, name=name)


def _templates(kind: str, name: str, n: int, known: Callable[[Prompt], bool]) -> dict[str, PromptSet]:
    """Held-out prompts in words that were trained on, and in words that were not."""
    every = load_prompts(f"organism/{kind}", name=name)
    return {name: every.where(known).take(n, seed=0), new(name): every.where(lambda p: not known(p)).take(n, seed=0)}


def _tuned(kind: str, name: str, n: int, nouns: Collection[str]) -> PromptSet:
    """The same about some nouns of tuning."""
    return load_prompts(f"organism/{kind}", split="tuned", name=name).where(lambda p: p.group in nouns).take(n)


def _broken(name: str) -> str:
    return f"broken, {name}"


def _outcomes(where: str, grade: Grade, shown: str, opposite: str) -> dict[str, Quantity]:
    """The shares of the three outcomes on a set, and on its prompts in words never trained on."""
    names = (shown, opposite, _broken(where))
    named = dict(zip(names, grade.outcome, strict=True))
    there: dict[str, Quantity] = {name: ("outcome", where, label) for name, label in named.items()}
    return there | {new(name): ("outcome", new(where), label) for name, label in named.items()}
