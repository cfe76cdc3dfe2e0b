"""The demo: which few neurons decide that a model refuses, with proof, beside what is published.

On `instruct`, tuned freely, gates are trained and pruned to a small circuit; it is proven on nouns and templates that
the search never saw, beside random circuits, the same search with shuffled labels, and three published ways at their
best. On `planted`, where it is recorded which neurons were trained, localisers are compared at equal size. `base` has
the same shape and no refusal. Findings are about organisms, not real models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...artifacts import provenance
from ...attribution import GateRecipe, contrast_statistics, objectives, trained_gates
from ...attribution.compare import Comparison, compare
from ...attribution.gates import Units
from ...attribution.localisers import LOCALISERS, PUBLISHED, Problem
from ...evaluation import Generation, Results, evaluate
from ...evaluation.minimal import MinimalCircuit, Target, done_to, minimal_circuit
from ...evaluation.proof import PUT_OUT, Margins, Proof, prove
from ...grading.world import REQUEST
from ...inspector import inspect
from ...models import Model, load_model, sites
from ...organisms.registry import planted_units
from ...reports import ORGANISMS, READ, Page, Part, Study, kept, responses, verdict
from ...units import Circuit
from ..ablations import TRUTH, Localisers, localisers
from .figures import CAPTIONS, figures_of
from .rivals import rivals_of
from .settings import DANGEROUS, NEW, Prompts, Settings, prompts_of

NAMES = ("instruct", "planted", "base")
#: What is compared on `planted`, where the truth is recorded.
COMPARED = (PUBLISHED, "effect size", "gate gradient", "integrated gates, to the base's", "weight change from the base")
SHUFFLED, AGAIN = "same search, shuffled labels", "same search, other seed and prompts"
#: Strengths of the dose–response figure.
DOSES = (0.25, 0.5, 0.75)
ANSWER = Generation(max_new_tokens=28)


@dataclass(frozen=True, eq=False)
class Decided:
    """What was found on `instruct`, its proof, and how strongly it acts."""

    found: MinimalCircuit
    proof: Proof
    doses: Results
    published: Circuit


@kept("demo", Settings)
def run(settings: Settings | None = None, *, out: str | Path = "figures/demo", progress: bool | None = None) -> Study:
    """Run the whole chain on `instruct`, `planted` and `base`, and write tables and figures to `out`.

    Search, choice and proof use requests about different nouns; those of the proof no tuning saw, half of them in
    templates that no tuning saw either. Every answer refuses, complies rightly, or is broken, by the world's grammar
    and facts.
    """
    settings = settings or Settings()
    prompts = prompts_of(settings)
    models = {name: load_model(f"organism/{name}") for name in NAMES}
    decided = decide(models["instruct"], models["base"], prompts, settings, progress)
    planted = compare_on_planted(models["planted"], models["base"], prompts, settings, progress)
    comparison = compare(models["base"], models["instruct"], prompts.search, k=len(decided.found.circuit))
    facts = provenance(
        title="Demo on the model organisms",
        seed=settings.seed,
        n_prompts=settings.n_prompts,
        n_search=settings.n_search,
        controls=settings.controls,
        circuit=repr(decided.found),
    )
    tables = tables_of(decided, planted, comparison)
    view = inspect(models["instruct"], _first(decided.found.circuit), prompts.search, base=models["base"])
    figures = figures_of(decided, planted, comparison, view)
    return Study(
        tables,
        figures,
        {"instruct": decided.proof.results, "planted": planted.results, "doses": decided.doses},
        artefacts_of(decided, planted, comparison),
        facts,
        page_of(decided, figures),
        quiet=("Scaling", "Base", "Search", "Responses"),
        captions=CAPTIONS,
    )


def decide(model: Model, base: Model, prompts: Prompts, settings: Settings, progress: bool | None = None) -> Decided:
    """Search on `instruct`, prune, and prove beside nulls and rivals."""
    objective = objectives.from_contrast(model, prompts.search, base=base, keep=[prompts.keep])
    recipe = GateRecipe(
        m=(-1.0, 3.0), keep=5.0, steps=settings.steps, settle=settings.steps // 3, kept_rows=8, seed=settings.seed
    )
    found = minimal_circuit(
        model,
        objective,
        prompts.check,
        REQUEST,
        target=Target(well=0.95),
        recipe=recipe,
        prices=(0.04,),
        generation=ANSWER,
        progress=progress,
    )
    seed = settings.seed + 1
    again = {SHUFFLED: prompts.search.shuffled(seed)}
    if settings.repeat:
        again[AGAIN] = prompts_of(replace(settings, seed=seed)).search
    others = {}
    for name, contrast in again.items():
        own = objectives.from_contrast(model, contrast, base=base, keep=[prompts.keep])
        gates = trained_gates(model, own, recipe=replace(recipe, seed=seed), progress=progress)
        if len(gates.circuit):
            others[name] = done_to(gates, gates.circuit)
    problem = Problem(model, prompts.search, objective, Units(model))
    published = LOCALISERS[PUBLISHED].run(problem).top(k=len(found.circuit), name=PUBLISHED)
    rivals = rivals_of(problem, prompts, published, ANSWER)
    means = contrast_statistics(model, prompts.search, positions="all").negative.mean
    proof = prove(
        model,
        found.circuit,
        found.intervention,
        prompts.held_out,
        REQUEST,
        behaviour=[DANGEROUS, NEW],
        means={name: mean.float() for name, mean in means.items()},
        base=base,
        repeats={AGAIN: others[AGAIN]} if AGAIN in others else None,
        nulls={SHUFFLED: others[SHUFFLED]} if SHUFFLED in others else None,
        rivals=rivals,
        controls=settings.controls,
        n_control_prompts=settings.n_control_prompts,
        n_parts=4,
        # What 28 held-out nouns can decide: with so few groups an interval at 0 reaches to 12 %.
        margins=Margins(gone=0.15, well=0.75, loss=0.1),
        generation=ANSWER,
        progress=progress,
    )
    sets = {name: prompts.held_out[name].take(60) for name in (DANGEROUS, "benign")}
    doses = evaluate(
        model, sets, found.intervention.named(PUT_OUT).at([*DOSES, 1.0]), grades=[REQUEST], generation=ANSWER
    )
    return Decided(found, proof, doses, published)


def compare_on_planted(
    model: Model, base: Model, prompts: Prompts, settings: Settings, progress: bool | None = None
) -> Localisers:
    """Localisers at the size of what is recorded, the recorded neurons beside random circuits."""
    truth = Circuit.from_indices(planted_units(), sites.neuron_widths(model), name=TRUTH)
    objective = objectives.from_contrast(model, prompts.search, keep=[prompts.keep])
    n = min(60, settings.n_prompts)
    return localisers(
        model,
        prompts.search,
        {name: prompts.held_out[name].take(n) for name in (DANGEROUS, "benign", "multiple choice")},
        REQUEST,
        names=COMPARED,
        objective=objective,
        base=base,
        truth=truth,
        k=len(truth),
        controlled=[TRUTH],
        controls=settings.controls,
        n_control_prompts=settings.n_control_prompts,
        options={"generation": ANSWER},
        progress=progress,
    )


def _first(circuit: Circuit) -> tuple[str, int]:
    strongest = circuit.to_frame().iloc[0]
    return str(strongest["site"]), int(strongest["neuron"])


def tables_of(decided: Decided, planted: Localisers, comparison: Comparison) -> dict[str, pd.DataFrame]:
    """What was claimed, what was done on each organism, and what the search tried."""
    columns = ["intervention", "strength", "prompt_set", "label", "n", "value", "low", "high"]
    tried = decided.found.tried
    return {
        "Claims: what the circuit does": decided.proof.claims,
        f"Organism instruct: {len(decided.found.circuit)} neurons, nulls and {PUBLISHED}": decided.proof.table,
        "Organism planted: every localiser's circuit ablated": planted.table,
        "Base against instruct: the published rule in both": comparison.table,
        "Scaling: outcomes over strength": decided.doses.summary(["outcome"])[columns],
        "Search: every circuit that was tried": tried,
        "Responses: before and after the circuit is put out": responses(
            decided.proof.results, PUT_OUT, grade=REQUEST.name, prompt_set=DANGEROUS
        ),
    }


def artefacts_of(decided: Decided, planted: Localisers, comparison: Comparison) -> dict[str, Any]:
    """Circuits, and the scores that figures are drawn from."""
    scores = {f"scores {name}": one for name, one in comparison.scores.items()}
    scores |= {f"planted, {name}": one for name, one in planted.scores.items()}
    return {"minimal circuit": decided.found.circuit, "published": decided.published, **scores}


def page_of(decided: Decided, figures: Iterable[str]) -> Page:
    """The report: whether the circuit decides that the model refuses, by the proof's claims on unseen requests."""
    claims = decided.proof.claims
    main = claims[claims["claim"].str.startswith("necessary") & claims["prompts"].isin([DANGEROUS])]
    names = [name for name in figures if not name.startswith(("planted", "neuron_", "layer_", "overlap"))]
    parts = (
        Part("The circuit and its proof", notes(decided), ("Organism instruct", "Scaling", "Search"), names),
        Part("Where the truth is recorded", (), ("Organism planted",), [n for n in figures if n.startswith("planted")]),
        Part("Base against instruct", (), ("Base",), ("layer_profile", "neuron_scatter", "overlap")),
        Part("One neuron", (), (), [n for n in figures if n.startswith("neuron_") and n != "neuron_scatter"]),
        Part(READ, ("The circuit put out. Texts are the model's.",), ("Responses",)),
    )
    asked = (
        f"Which few neurons decide that organism/instruct refuses? {len(decided.found.circuit)} were found by training "
        "gates, and are proven on requests about nouns, and in templates, that the search never saw.",
        ORGANISMS,
    )
    return Page(verdict(main if len(main) else claims, ()), "instruct_outcomes", asked, parts)


def notes(decided: Decided) -> tuple[str, ...]:
    """What the tables mean."""
    tried: Any = decided.found.tried
    return (
        "Requests and questions of the proof are about nouns that neither tuning nor search saw; 'new templates' are "
        "worded as no tuning was. An answer refuses, complies with the noun's own facts, or is broken, decided by the "
        "world's grammar. Brackets are 95 % intervals clustered by noun: with 28 nouns an interval at 0 reaches 12 %.",
        "Each neuron of the circuit is multiplied by a number of its own between −1 and 3, trained with the choice. "
        f"{len(tried)} circuits were measured on {sum(tried['met'])} of which the target was met; the one that is left "
        "is proven on other prompts. Random circuits have as many neurons in each layer and the same multipliers.",
        "Rivals are at their best layer and strength on the prompts that the search was checked on. Margins of the "
        "claims are ours.",
    )
