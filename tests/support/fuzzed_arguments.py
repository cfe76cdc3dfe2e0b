"""Every public function, constructor and method, with arguments that are valid but for one or two."""

import importlib
import inspect
import random
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

import mechsurgery as ms
from mechsurgery.allowed import check_of
from mechsurgery.attribution import ContrastStatistics, GateRecipe, Units, contrast_statistics
from mechsurgery.checks import _resolved
from mechsurgery.evaluation import Generation
from mechsurgery.grading import by_pattern
from mechsurgery.models import sites
from mechsurgery.prompts import Prompt
from mechsurgery.training import LoRA, Recipe

from . import fuzzed_files
from .dictionaries import random_dictionary
from .examples import circuit_of, examples

PACKAGES = "attribution evaluation grading inspector intervention models organisms plots prompts reports training"
#: Modules whose functions users are told of beside those of the packages.
MODULES = """attribution.compare attribution.objectives deltas directions units models.dictionaries evaluation.power
    evaluation.statistics training.kept evaluation.select evaluation.choices grading.judged grading.hybrid
    grading.sycophancy attribution.localisers attribution.places artifacts models.generate""".split()
#: What serves, goes to the network, or draws pictures with a browser.
LEFT = frozenset(
    """explore serve load_benchmarks hub_table static_export_problem export export_all redraw report save_json
    machine commit versions provenance check_arguments register_prompts register_contrast
    load_mmlu load_truthfulqa load_xstest load_jbb sample_pairs""".split()
)


@dataclass(frozen=True)
class Target:
    """Something to call, and what its parameters are called."""

    name: str
    call: Any
    parameters: dict[str, inspect.Parameter]


def things(model):
    """Valid arguments by the name of their parameter."""
    contrast = ms.ContrastSet.from_lists(["make a bomb", "the poison please"], ["make a cake", "warm soup please"])
    circuit, dictionary = circuit_of(model), random_dictionary("blocks.1.hook_resid_post", 48)
    statistics = contrast_statistics(model, contrast)
    direction = ms.attribution.mean_difference_direction(model, contrast, layers=[1])
    scores, found = ms.score(statistics), fuzzed_files.results()
    prompts, data = ms.PromptSet.from_texts(["make a bomb", "warm soup"], name="asked"), examples(6)
    pairs = ms.CompletionPairs(data.prompts, data.completions, tuple((3, *row) for row in data.completions))
    delta = _delta(model)
    summary, cheap = found.summary(), Generation(max_new_tokens=2)
    rows = {site: torch.zeros(width) for site, width in sites.neuron_widths(model).items()}
    vectors = {"blocks.1.hook_resid_post": torch.randn(48)}
    kinds = {
        "base instruct model other": model,
        "a b circuit latents within put_out_circuit": circuit,
        "units": None,
        "contrast discovery": contrast,
        "prompts prompt_set": prompts,
        "positive negative validation": data,
        "data examples": data,
        "pairs": pairs,
        "dictionary": dictionary,
        "direction": direction,
        "statistics": statistics,
        "scores x y": scores,
        "delta plus minus": delta,
        "intervention put_out run": ms.ablate(circuit),
        "interventions": [ms.ablate(circuit)],
        "summary table benefit damage rows": summary,
        "results": found,
        "means mean reference": rows,
        "multipliers": rows,
        "vector": torch.randn(48),
        "vectors": vectors,
        "widths": sites.neuron_widths(model),
        "where": LoRA(rank=2),
        "recipe": None,
        "generation": cheap,
        "grade": by_pattern("kind", "please"),
        "objective": None,
        "prompt": Prompt("p", "make a cake"),
        "tokenizer": model.tokenizer,
        "name rule title label text metric what words": "thing",
        "names": ("one", "two"),
        "site hook_name": "blocks.1.mlp.hook_post",
        "index latent neuron layer": 1,
        "k n seed fraction": 1,
        "unit": ("blocks.1.mlp.hook_post", 3),
        "texts completions": ["one", "two"],
        "circuits": {"a": circuit, "b": circuit},
        "features": {"hook": torch.randn(8, 3)},
        "labels": [0, 1] * 4,
        "groups": list("aabbccdd"),
        "parts": {"blocks.0.mlp.W_out": fuzzed_files.Dense(torch.ones(3))},
        "strength value temperature": 1.0,
        "after before": {"w": torch.ones(3)},
        "indices": {"blocks.1.mlp.hook_post": [1, 2]},
        "info": {},
        "page": None,
        "tables": {"Claims": pd.DataFrame({"a": [1]})},
        "tokens ids": [3, 4, 5],
    }
    return {name: value for names, value in kinds.items() for name in names.split() if value is not None}


def _delta(model):
    values = torch.full_like(model.blocks[0].mlp.W_out, 1e-3).cpu()
    return ms.WeightDelta({"blocks.0.mlp.W_out": fuzzed_files.Dense(values)}, "small")


def targets(model):
    """{name: what is called}: public functions and constructors, and the methods of nouns."""
    found: dict[str, Target] = {}
    modules = [ms, *(importlib.import_module(f"mechsurgery.{name}") for name in [*PACKAGES.split(), *MODULES])]
    for module in modules:
        names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        for name in names:
            own = getattr(module, name)
            of = str(getattr(own, "__module__", ""))
            ours = of.startswith("mechsurgery") if hasattr(module, "__all__") else of == module.__name__
            if ours and name not in LEFT and (inspect.isfunction(own) or inspect.isclass(own)):
                if inspect.isclass(own) and (issubclass(own, BaseException) or getattr(own, "_is_protocol", False)):
                    continue
                _add(found, name, own)
    known = things(model)
    nouns = [
        known[n] for n in "circuit scores direction delta prompts contrast data pairs intervention results".split()
    ]
    nouns += [known["statistics"], known["dictionary"], ms.Template(), Generation(), known["grade"]]
    nouns += [Units(model), GateRecipe(), Recipe(), LoRA(), ContrastStatistics, ms.Circuit, ms.UnitScores, ms.PromptSet]
    nouns += [ms.Direction, ms.WeightDelta, ms.ContrastSet, ms.Examples, ms.CompletionPairs, ms.Results]
    for noun in nouns:
        title = noun.__name__ if inspect.isclass(noun) else type(noun).__name__
        for name, own in inspect.getmembers(type(noun) if not inspect.isclass(noun) else noun):
            bound = inspect.ismethod(own) if inspect.isclass(noun) else inspect.isfunction(own)
            if bound and not name.startswith("_") and name not in ("save", "figure"):
                _add(found, f"{title}.{name}", getattr(noun, name))
    return found


def _add(found, name, own):
    try:
        parameters = dict(inspect.signature(own).parameters)
    except ValueError:
        return
    if parameters and name not in found:
        found[name] = Target(name, own, parameters)


class Strange:
    """An object of no known kind."""

    def __repr__(self):
        return "something strange"


def odd(known):
    """Values that no parameter asks for, and nouns in the wrong place."""
    plain = [
        *(None, True, False, -1, 0, 1, 3, 10**30, 2**63, -(2**63), 1.5, -0.5, float("nan"), float("inf"), 1e308),
        *("", " ", "12", "x", "a\x00b", "\ud800", "\u202eevil", "x" * 5000, "line\nbreak", b"bytes", "no/such/path"),
        *([], [None], [-1], [0, 0], [True], ["a", 1], [[]], ["\ud800"], [float("nan")], [10**30], (), (1,), ("a", "a")),
        *({}, {"a": 1}, {1: 2}, {"": None}, {"blocks.9.mlp.hook_post": torch.ones(3)}, set(), {1}, range(0), object()),
        *(Strange(), len, int, Strange, np.float32(2), np.nan, np.array([1, 2]), np.array([]), pd.NA, 1j),
        *(
            torch.tensor([]),
            torch.ones(3),
            torch.ones(2, 2),
            torch.tensor(float("nan")),
            torch.tensor([1]),
            torch.ones(48),
        ),
        *(
            torch.full((48,), float("inf")),
            pd.DataFrame(),
            pd.DataFrame({"value": ["x"]}),
            pd.Series([1]),
            pd.Series(["one", "two"]),
        ),
        *(
            {"blocks.1.mlp.hook_post": torch.empty(112, device="meta")},
            torch.ones(48).to_sparse(),
            np.int64(3),
            np.array(["a"]),
        ),
    ]
    return [*plain, *_near(), *known.values()]


def _near():
    """Nouns that are whole, but of another model, empty, or of one thing only."""
    site = "blocks.1.mlp.hook_post"
    few = ms.PromptSet.from_texts(["only one"], name="one")
    wide = ms.Circuit.from_indices({site: [6]}, {site: 7}, name="of another model")
    nowhere = "no.such.site"
    return [
        *(ms.PromptSet("empty", ()), few, ms.ContrastSet("one each", few, ms.PromptSet.from_texts(["another"]))),
        *(wide, ms.Circuit.from_indices({}, {site: 112}), ms.Circuit.from_indices({nowhere: [1]}, {nowhere: 2})),
        *(ms.Direction({nowhere: torch.ones(3)}), ms.Direction({"blocks.1.hook_resid_post": torch.zeros(48)})),
        *(ms.UnitScores({nowhere: torch.ones(3)}, "r"), ms.UnitScores({site: torch.zeros(112)}, "r")),
        *(ms.WeightDelta({nowhere: fuzzed_files.Dense(torch.ones(3))}), ms.ablate(wide)),
        *(ms.Examples(((10**6,),), ((3,),)), ms.CompletionPairs(((3,),), ((10**6,),), ((4,),))),
        *(ms.Results(fuzzed_files.results().table.head(0)), [few], {"one": few}, {"a": wide}, {site: torch.ones(7)}),
        *({site: torch.full((112,), float("nan"))}, [site] * 2, Prompt("p", "x " * 500)),
        *(Prompt("q", "Which?", choices=("A", "B"), answer=0), "blocks.99.hook_resid_post"),
    ]


_FITTING: dict[tuple[str, str], list[Any]] = {}


def _fitting(target: Target, name: str, values: list[Any]) -> list[Any]:
    """The values of the right type: what is wrong with them is what they hold."""
    if (target.name, name) not in _FITTING:
        function = inspect.unwrap(getattr(target.call, "__func__", target.call))
        if inspect.isclass(function):
            function = inspect.unwrap(function.__init__)
        space = {**vars(importlib.import_module(target.call.__module__)), **getattr(function, "__globals__", {})}
        check = check_of(_resolved(target.parameters[name].annotation, space), name)
        _FITTING[target.name, name] = [one for one in values if check is None or check.allows(one)]
    return _FITTING[target.name, name]


def arguments(target: Target, known: dict[str, Any], values: list[Any], chance: random.Random):
    """(positional, named) arguments, of which one or two are malformed, and which these are."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [one for one in target.parameters.values() if one.kind not in variadic]
    if not named:
        return (), {}, []
    given = {p.name: known.get(p.name, p.name) for p in named if p.default is inspect.Parameter.empty}
    wrong = [one.name for one in chance.sample(named, min(len(named), chance.choice((1, 1, 1, 2))))]
    for name in wrong:
        fit = _fitting(target, name, values) if chance.random() < 0.6 else ()
        given[name] = chance.choice(fit or values)
    first = [one.name for one in named if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    return tuple(given.pop(name) for name in first if name in given), given, wrong


def remove(folder):
    """Remove a folder that a call wrote."""
    shutil.rmtree(folder)
