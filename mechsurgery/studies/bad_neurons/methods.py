"""What is tried: ways to choose neurons, as `UnitScores` over all MLP neurons, and every fine-tune to be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, cast

import torch

from ...attribution.contrast import score
from ...attribution.decode import decoded_direction, neurons_along
from ...attribution.gradient import mean_activations, neuron_attribution
from ...attribution.kept import kept_scores
from ...attribution.probes import Probe
from ...attribution.statistics import ContrastStatistics, contrast_statistics
from ...errors import InputError, ModelNotFoundError, PromptError
from ...evaluation import Generation, evaluate
from ...evaluation.shards import key_of
from ...models import sites
from ...models.dictionaries import Dictionary
from ...models.protocol import Model
from ...organisms.registry import planted_units
from ...prompts import CompletionPairs, Examples, PromptSet, encode
from ...training.trainable import LoRA, Neurons, Where
from ...units import Circuit, UnitScores
from .data import RIGHT, WRONG, SycophancyTask
from .probing import LATENTS, NEURONS, SPARSE, STREAM, Probing, opposites, own_answers, probe, stream_of
from .published import DPO, PINPOINT, SYNTHETIC, Learns, Lessons, head_scores, known_answers
from .settings import Settings

#: The paper's way as far as its text says it: probe SAE latents, decode, match write directions.
PAPER = "SAE probe, decoded, cosine"
GRADIENT = "gradient attribution"
RANDOM = "random"
MATCHED = "random, layers as the paper's"
MLP, WHOLE = "all MLP weights", "all weights"
RECORDED = "recorded neurons"
#: What all fine-tunes of neurons share: one learning rate.
OF_NEURONS = "neurons"
#: The ways whose curves over examples and shares are drawn.
DRAWN = (PAPER, GRADIENT, RANDOM)


@dataclass(frozen=True, eq=False)
class Located:
    """Scores of every way to choose neurons, random ones of every seed, and what the probes are and read.

    Every way chooses the same number, a share of all MLP neurons, whether or not it scores all layers; `recorded`
    neurons, where an organism has some, are those that a behaviour was planted in, however many. `heads` are the scores
    of attention heads, for pinpoint tuning, and `lessons` what fine-tunes learn from.
    """

    scores: dict[str, UnitScores]
    random: dict[int, UnitScores]
    probing: Probing
    lessons: Lessons | None = None
    heads: UnitScores | None = None
    recorded: Circuit | None = None

    def budget(self, fraction: float) -> int:
        """How many neurons a share is."""
        return max(1, round(fraction * len(self._all)))

    def fits(self, way: str, fraction: float) -> bool:
        """Whether a way scores as many neurons as a share is."""
        return self.budget(fraction) <= len(self.scores.get(PAPER if way == MATCHED else way, self._all))

    def circuit(self, way: str, settings: Settings, *, seed: int, fraction: float | None = None) -> Circuit:
        """The neurons that a way chooses; random ones are drawn afresh for every seed.

        Raises `InputError` where a way scores fewer than that.
        """
        share = settings.fraction if fraction is None else fraction
        if way == RECORDED and self.recorded is not None:
            return self.recorded
        if way == MATCHED:
            paper = self.circuit(PAPER, settings, seed=seed, fraction=share)
            return paper.random_like(seed).named(f"{way} {seed}")
        scores = self.random[seed] if way == RANDOM else self.scores[way]
        k = self.budget(share)
        if k > len(scores):
            raise InputError(
                f"{way!r} scores the {len(scores)} neurons before its autoencoder, fewer than {k}, which are "
                f"{share:g} of all; give a smaller fraction"
            )
        name = f"{way} {seed}" if way == RANDOM else way
        return spread(scores, k, name) if settings.per == "layer" else scores.top(k=k, name=name)

    @property
    def ways(self) -> list[str]:
        """Every way to choose neurons; random ones last."""
        known = [] if self.recorded is None else [RECORDED]
        return [*self.scores, *known, *([MATCHED] if PAPER in self.scores else []), RANDOM]

    @property
    def _all(self) -> UnitScores:
        """Scores of all MLP neurons."""
        return next(iter(self.random.values()))


def spread(scores: UnitScores, k: int, name: str) -> Circuit:
    """The best `k` units, as many of each layer that is scored, the first layers one more where they do not divide."""
    every, more = divmod(k, len(scores.widths))
    units: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for i, (site, values) in enumerate(scores.scores.items()):
        if every + (i < more):
            one = UnitScores({site: values}, scores.rule).top(k=every + (i < more))
            units |= one.units
    return Circuit(units, scores.widths, name, {**scores.info, "rule": scores.rule, "top": {"k": k, "per": "layer"}})


def locate(
    model: Model,
    task: SycophancyTask,
    dictionary: Dictionary | None,
    settings: Settings,
    generation: Generation,
    *,
    folder: str | Path | None = None,
) -> Located:
    """Score all MLP neurons in every way. Without a dictionary, ways that need one are left out.

    With a `folder` every probe and every scoring is kept there as it is made, by all that it depends on.
    """
    template = generation.template
    answers = {}
    for kind, learnt in ((WRONG, task.learn_wrong), (RIGHT, task.learn_right)):
        some = replace(learnt.take(settings.n_probe, seed=settings.seed), name=f"{kind} to learn from")
        options: dict[str, Any] = {"seed": settings.seed, "folder": folder}
        answers[kind] = own_answers(model, some, task.grades[kind], generation, **options)
    opposite = {kind: opposites(task, kind, own) for kind, own in answers.items()}
    probing = probe(model, task, dictionary, settings, generation, answers, folder=folder)
    scores = _scored(model, task, probing.probes, dictionary, template, folder)
    claims = task.learn_wrong.take(settings.n_probe, seed=settings.seed)
    pairs = disputed_pairs(model, claims, generation, folder=folder)
    few = max(1, settings.max_rows // 8)

    def by_gradient() -> UnitScores:
        means = mean_activations(model, task.reference, sites.neuron_sites(model), template=template)
        return neuron_attribution(model, pairs, means, max_rows=few)

    reference = encode(model.tokenizer, task.reference, template=template)
    facts = [sites.fingerprint(model), asdict(pairs), few]
    scores[GRADIENT] = kept_scores(folder, key_of([GRADIENT, facts, reference]), by_gradient)
    of_heads = partial(head_scores, model, pairs, max_rows=few)
    heads = kept_scores(folder, key_of(["heads", facts]), of_heads) if settings.published else None
    widths = sites.neuron_widths(model)
    known = known_answers(model, task, generation, folder=folder) if settings.published else {}
    return Located(
        scores,
        {seed: random_scores(widths, seed) for seed in settings.runs},
        probing,
        Lessons(task, model.tokenizer, template, opposite, known),
        heads,
        recorded_neurons(model),
    )


def recorded_neurons(model: Model) -> Circuit | None:
    """The neurons that a behaviour was planted in, where that is recorded."""
    try:
        units = planted_units(str(model.cfg.model_name))
    except ModelNotFoundError:
        return None
    return Circuit.from_indices(units, sites.neuron_widths(model), name=RECORDED)


def _scored(
    model: Model,
    task: SycophancyTask,
    probes: Mapping[str, Probe],
    dictionary: Dictionary | None,
    template: Any,
    folder: str | Path | None,
) -> dict[str, UnitScores]:
    """Neurons that write along the directions that probes of latents and of the residual stream read, and CNA's."""
    ways: dict[str, UnitScores] = {}

    @cache
    def statistics() -> ContrastStatistics:
        return contrast_statistics(model, task.locate, template=template)

    both = (task.locate.positive, task.locate.negative)
    facts = [sites.fingerprint(model), [encode(model.tokenizer, side, template=template) for side in both]]

    def keep(name: str, of: Sequence[Any], make: Callable[[], UnitScores]) -> None:
        ways[name] = kept_scores(folder, key_of([name, facts, *of]), make)

    if dictionary is not None:
        direction = decoded_direction(probes[LATENTS], dictionary)
        along = partial(neurons_along, model, direction)
        of = [{site: one.tolist() for site, one in direction.vectors.items()}]
        ways[PAPER] = along()
        keep("SAE probe, decoded, contribution", of, lambda: along("contribution", statistics=statistics()))
        keep("SAE probe, decoded, contrast", of, lambda: along("contrast", statistics=statistics()))
        ways["SAE probe (L1), decoded, cosine"] = neurons_along(model, decoded_direction(probes[SPARSE], dictionary))
    if STREAM in probes:
        direction = decoded_direction(probes[STREAM], site=stream_of(model, dictionary))
        ways["residual probe, cosine"] = neurons_along(model, direction)
    ways["neuron probe weight"] = probes[NEURONS].scores()
    keep("CNA (difference)", [], lambda: score(statistics(), "difference"))
    return ways


def random_scores(widths: Mapping[str, int], seed: int) -> UnitScores:
    """Uniform random scores."""
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.rand(width, generator=generator) for name, width in widths.items()}
    return UnitScores(values, RANDOM, {"seed": seed})


def disputed_pairs(
    model: Model, prompts: PromptSet, generation: Generation, *, n: int = 100, folder: str | Path | None = None
) -> CompletionPairs:
    """The model's own greedy answer (bad) beside the wanted one (good), for up to `n` prompts where they differ."""
    some = prompts.take(n)
    wanted = Examples.from_texts(model.tokenizer, some, template=generation.template)
    rows = evaluate(model, some, grades=(), generation=generation, folder=folder).table
    answers = rows.loc[rows["metric"] == "tokens", "tokens"]
    closed = [(*answer, model.tokenizer.eos_token_id) if answer else () for answer in answers]
    pairs = [(p, bad, good) for p, bad, good in zip(wanted.prompts, closed, wanted.completions) if bad and bad != good]
    if not pairs:
        raise PromptError(f"the model already answers all of {prompts.name!r} as wanted: there is nothing to cure")
    return CompletionPairs(*(tuple(part) for part in zip(*pairs)))


@dataclass(frozen=True, eq=False)
class Trial:
    """One thing that is tried: a fine-tune of some weights (`where`), or neurons set to zero.

    A "control" trains the `draw`-th random neurons with as many in each layer as the paper's way takes. `learns` is
    what it learns from: wanted answers, preferences, or synthetic data.
    """

    way: str
    run: Literal["neurons", "rival", "ablation", "control"]
    seed: int
    n_examples: int
    fraction: float
    where: Where
    lr: float
    draw: int | None = None
    learns: Learns = "answers"

    @property
    def name(self) -> str:
        """What it is called in the table of results."""
        how = "set to zero" if self.run == "ablation" else f"{self.n_examples} examples, seed {self.seed}"
        drawn = "" if self.draw is None else f", draw {self.draw}"
        return f"{self.way}: {100 * self.fraction:g} % of neurons, {how}{drawn}"

    @property
    def facts(self) -> dict[str, Any]:
        """What the tables need to know besides what is measured."""
        own = {"intervention": self.name, "way": self.way, "run": self.run, "run_seed": self.seed}
        return {**own, "n_examples": self.n_examples, "fraction": self.fraction, "lr": self.lr}

    def is_main(self, settings: Settings) -> bool:
        """Whether it is a fine-tune at the study's number of examples and share, on which claims rest."""
        same = self.run == "rival" or (self.run == "neurons" and self.fraction == settings.fraction)
        return same and self.n_examples == settings.n_examples


def trials(located: Located, settings: Settings, rates: Mapping[str, float] | None = None) -> list[Trial]:
    """Everything the study tries, nothing twice; `rates` are learning rates that were chosen, by kind of fine-tune."""
    n, share, first = settings.n_examples, settings.fraction, settings.seed
    sizes = [size for size in dict.fromkeys(settings.sizes) if size != n] if settings.curves else []
    shares = [one for one in dict.fromkeys(settings.fractions) if one != share] if settings.curves else []
    drawn = [way for way in DRAWN if way in located.ways]
    every, some = settings.runs, settings.runs[: settings.curve_seeds]
    wanted = [(way, n, share, every) for way in located.ways]
    wanted += [(way, size, share, some) for way in drawn for size in sizes]
    wanted += [(way, n, one, some) for way in drawn for one in shares if located.fits(way, one)]
    known = kinds(located, settings)
    lr = {name: kind.lr for name, kind in known.items()} | dict(rates or {})

    def neurons(way: str, run: Any, seed: int, size: int, one: float) -> Trial:
        circuit = located.circuit(way, settings, seed=seed, fraction=one)
        return Trial(way, run, seed, size, one, Neurons(circuit, cast(Any, settings.train)), lr[OF_NEURONS])

    found = [neurons(way, "ablation", first, 0, share) for way in located.ways]
    found += [neurons(way, "neurons", seed, size, one) for way, size, one, seeds in wanted for seed in seeds]
    for way, kind in known.items():
        points = [(n, every), *((size, some) for size in sizes if way == MLP)]
        if kind.where is not None:
            found += [kind.trial(way, s, size, lr[way]) for size, seeds in points for s in seeds]
    if PAPER in located.scores:
        paper = located.circuit(PAPER, settings, seed=first)
        draws = [paper.random_like(1000 + i) for i in range(settings.drawn)]
        places = [Neurons(circuit, cast(Any, settings.train)) for circuit in draws]
        found += [Trial(MATCHED, "control", first, n, share, p, lr[OF_NEURONS], i) for i, p in enumerate(places)]
    return found


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of fine-tune: what it trains (None for neurons, which are chosen), the middle of its rates, its lesson."""

    where: Where | None
    lr: float
    learns: Learns = "answers"

    def trial(self, name: str, seed: int, n: int, lr: float) -> Trial:
        """One fine-tune of this kind."""
        assert self.where is not None
        return Trial(name, "rival", seed, n, 1.0, self.where, lr, learns=self.learns)


def lora_name(settings: Settings) -> str:
    """What LoRA is called in tables."""
    return f"LoRA (r {settings.lora_rank})"


def kinds(located: Located, settings: Settings) -> dict[str, Kind]:
    """Every kind of fine-tune by name: neurons, more weights, and published alternatives where they can be had."""
    found = {
        OF_NEURONS: Kind(None, settings.lr),
        MLP: Kind("mlp", settings.mlp_lr),
        WHOLE: Kind("blocks", settings.whole_lr),
        lora_name(settings): Kind(LoRA(settings.lora_rank), settings.lora_lr),
    }
    if not settings.published:
        return found
    found[SYNTHETIC] = Kind("blocks", settings.synthetic_lr, "synthetic")
    if located.heads is not None:
        k = max(1, round(settings.head_share * len(located.heads)))
        chosen = located.heads.top(k=k, by="positive", name=PINPOINT)
        found[PINPOINT] = Kind(Neurons(chosen), settings.head_lr)
    if located.lessons is not None and located.lessons.has_preferences():
        found[DPO] = Kind("blocks", settings.dpo_lr, "preferences")
    return found
