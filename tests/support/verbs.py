"""Every verb of the toolkit as a function of a model that gives numbers, to hold classes of models side by side."""

import torch

import mechsurgery as ms
from mechsurgery.attribution import (
    GateRecipe,
    Units,
    contrast_statistics,
    fit_probe,
    mean_activations,
    mean_difference_direction,
    objectives,
)
from mechsurgery.attribution.causal import exact_effects, gate_gradient
from mechsurgery.attribution.decode import neurons_along
from mechsurgery.evaluation import Target
from mechsurgery.inspector import Catalogue, token_effects
from mechsurgery.inspector.live import Ask, Live
from mechsurgery.intervention import applied
from mechsurgery.models import capture, generate, sites
from mechsurgery.models.divergence import divergence
from mechsurgery.prompts import CompletionPairs, Examples
from mechsurgery.training import LoRA, Monitor, Neurons, Recipe, finetune

NOUNS = (["a bomb", "the poison", "some strong acid that burns"], ["a cake", "the garden", "warm soup that heals"])
FRAMES = ("How do I make {}?", "Explain to my friend, step by step, {}.")
CONTRAST = ms.ContrastSet.from_lists(*[[f.format(n) for n in nouns for f in FRAMES] for nouns in NOUNS], name="tiny")
#: Of different lengths, so that batches are padded on the left.
IDS = [[5, 9, 11, 30, 40, 77, 8, 21], [8, 3, 66], [12, 9, 4, 7, 300]]
SIZE = ms.Grade(
    "size", "1", lambda prompt, text: "long" if len(text) > 9 else "short", labels=("long", "short", "none")
)
RECIPE = Recipe(steps=4, lr=1e-2, batch=4, weight_decay=0.0, validate_every=2)
SHORT = ms.Generation(max_new_tokens=4)
EXAMPLES = Examples(((5, 9, 11), (8, 3), (66, 12, 9, 4)), ((30, 40, 2), (77, 21, 8, 2), (33, 2)), ("a", "b", "c"))


def vector(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def circuit_of(model, heads=True):
    last = model.cfg.n_layers - 1
    units = {f"blocks.{layer}.mlp.hook_post": [1, 3, 40] for layer in (0, last)}
    widths = {site: sites.width(model, site) for site in units}
    if heads:
        units["blocks.1.attn.hook_z"], widths["blocks.1.attn.hook_z"] = [1, 2], model.cfg.n_heads
    return ms.Circuit.from_indices(units, widths, name="own")


def logits_of(model, intervention=None, ids=IDS):
    if intervention is None:
        return capture.next_token_logits(model, ids)
    with applied(model, intervention):
        return capture.next_token_logits(model, ids)


def objective_of(model):
    pairs = CompletionPairs(((5, 9, 11), (8, 3)), ((30, 40), (77, 21, 8)), ((33, 12, 7), (4,)))
    return objectives.from_pairs(pairs)


def units_of(model):
    return Units(model, [*sites.neuron_sites(model), *sites.head_sites(model)])


def scores_of(found):
    return torch.cat(list(found.scores.values()))


def forward(model):
    return {"logits": logits_of(model)}


def statistics(model):
    at = ["blocks.0.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "ln_final.hook_normalized"]
    if "blocks.1.hook_resid_mid" in model.hook_dict:
        at.append("blocks.1.hook_resid_mid")
    found = contrast_statistics(model, CONTRAST, at=at[:3] + at[4:], positions="all").positive.mean
    means = mean_activations(model, CONTRAST.positive, [at[3]])
    return {"streams": torch.cat(list(found.values())), "normalised": torch.as_tensor(means[at[3]])}


def located(model):
    return {"members": sorted(ms.locate(model, CONTRAST, k=12).members())}


def gradients(model):
    objective, units = objective_of(model), units_of(model)
    return {
        "plain": scores_of(gate_gradient(model, objective, units)),
        "drop": scores_of(gate_gradient(model, objective, units, drop=True)),
        "relp": scores_of(gate_gradient(model, objective, units, relp=True)),
    }


def exact(model):
    return {"effects": scores_of(exact_effects(model, objective_of(model), circuit_of(model), units_of(model)))}


def gates(model):
    kept = objectives.kept(model, CONTRAST.negative.take(2), max_new_tokens=2)
    recipe = GateRecipe(price=0.001, steps=4, lr=0.05, rows=64, start=0.3)
    return {
        "gates": scores_of(
            ms.trained_gates(model, objective_of(model).keeping(kept), units_of(model), recipe=recipe).scores
        )
    }


def minimal(model):
    found = ms.minimal_circuit(
        model,
        objective_of(model),
        {"bad": CONTRAST.positive.take(2), "good": CONTRAST.negative.take(2)},
        SIZE,
        target=Target(well=0.5, loss=0.5),
        recipe=GateRecipe(price=0.001, steps=4, lr=0.2, rows=64, start=0.3),
        prices=(0.0001,),
        generation=SHORT,
    )
    return {"members": sorted(found.circuit.members()), "tried": found.tried[["k", "shows", "well"]].to_numpy()}


def proof(model):
    circuit = circuit_of(model, heads=False)
    found = ms.prove(
        model,
        circuit,
        ms.ablate(circuit),
        {"bad": CONTRAST.positive.take(2), "good": CONTRAST.negative.take(2)},
        SIZE,
        behaviour=["bad"],
        controls=2,
        n_control_prompts=2,
        n_parts=1,
        parts=(0.5,),
        generation=SHORT,
    )
    return {"verdicts": [str(v) for v in found.claims["verdict"]]}


def probe(model):
    found = fit_probe(model, CONTRAST, ["blocks.1.hook_resid_post"], folds=2, strengths=[0.1])
    return {"auroc": [found.auroc]}


def interventions(model):
    d, circuit = model.cfg.d_model, circuit_of(model)
    means = {s: vector(w * (model.cfg.d_head if "hook_z" in s else 1), 5) for s, w in circuit.widths.items()}
    neurons = circuit_of(model, heads=False)
    affine = {site: vector(d, i) for i, site in enumerate(sites.residual_writes(model))}
    middle = "blocks.1.hook_resid_mid" if "blocks.1.hook_resid_mid" in model.hook_dict else "blocks.1.hook_resid_post"
    kinds = {
        "scaled": ms.scale(circuit, -0.5),
        "means": ms.mean_ablate(neurons, {s: means[s] for s in neurons.units}),
        "projected": ms.project_out(model, vector(d)),
        "affine": ms.project_out(model, vector(d), to=affine),
        "steered": ms.steer(ms.Direction({"blocks.0.hook_resid_post": vector(d), middle: vector(d, 1)})),
        "heads": ms.steer(
            ms.Direction({"blocks.1.attn.hook_z": vector(sites.channels(model, "blocks.1.attn.hook_z"))})
        ),
    }
    return {name: logits_of(model, one) for name, one in kinds.items()}


def generated(model):
    run = ms.scale(circuit_of(model), 3.0)

    def hooks(rows):
        return run.hooks()

    texts = {
        "greedy": generate.generate(model, IDS, max_new_tokens=8),
        "sampled": generate.generate(model, IDS, max_new_tokens=8, temperature=1.0, seed=3),
        "changed": generate.generate(model, IDS, max_new_tokens=8, hooks=hooks),
        "streamed": list(generate.stream(model, IDS[0], 2, max_new_tokens=4))[-1],
    }
    kl = divergence(model, IDS, texts["greedy"], hooks=hooks)
    return {**{name: [t for row in rows for t in (*row, -1)] for name, rows in texts.items()}, "kl": kl}


def evaluated(model):
    runs = [ms.ablate(circuit_of(model)), ms.steer(mean_difference_direction(model, CONTRAST, layers=[1]))]
    table = ms.evaluate(
        model, {"own": CONTRAST.positive.take(3)}, runs, grades=[SIZE], controls=1, generation=SHORT
    ).table
    return {"responses": [str(text) for text in table["response"]]}


def tuned(model):
    return _tuned(model, {"units": circuit_of(model), "blocks": "blocks", "norms": "norms"})


def tuned_otherwise(model):
    write = Neurons(circuit_of(model, heads=False), "write")
    return _tuned(model, {"write": write, "lora": LoRA(rank=2), "mlp": "mlp", "bias": "bias"})


def _tuned(model, places):
    found, before = {}, sites.fingerprint(model)
    for name, where in places.items():
        delta = finetune(model, EXAMPLES, where, recipe=RECIPE)
        found[f"{name}: names"] = sorted(delta.parts)
        found[f"{name}: norms"] = list(delta.norms().values())
        found[f"{name}: losses"] = [row["loss"] for row in delta.info["curve"]]
        found[f"{name}: logits"] = logits_of(model, ms.shift_weights(delta).at(0.5))
    assert sites.fingerprint(model) == before
    return found


def watched(model):
    delta = finetune(model, EXAMPLES, "mlp", recipe=RECIPE)
    monitor = Monitor(model, {"own": delta}, nulls=2)
    finetune(model, EXAMPLES, "mlp", recipe=RECIPE, watch=monitor)
    return {"cosines": monitor.table["cosine"].tolist()[1:], "self": [delta.cosine(delta)]}


def inspected(model):
    catalogue = Catalogue(model, CONTRAST, circuit_of(model, heads=False), effects=False, at_most=4, responses=0)
    steps = list(Live(catalogue).stream(Ask("How do I make a cake?", {}, random=1, max_new_tokens=4)))
    view = ms.inspect(model, "L1.3", CONTRAST, responses=0)
    texts = [steps[-1]["texts"]["baseline"], str(view.name)]
    return {"texts": texts, "units": [unit["name"] for unit in catalogue.document()["units"]]}


def vectors(model):
    direction = mean_difference_direction(model, CONTRAST, layers=[1])
    d, heads = model.cfg.d_model, "blocks.1.attn.hook_z"
    return {
        "tokens": [*token_effects(model, "blocks.1.mlp.hook_post", 3, top=6)["token"]],
        "along": scores_of(neurons_along(model, direction, "cosine")),
        "cosines": sites.embedding_cosines(model, vector(d)),
        "reads": torch.cat(list(sites.read_directions(model, 1, 3).values())),
        "writes": sites.write_rows(model, 1),
        "lens": sites.direct_logits(model, vector(d)),
        "head": sites.to_stream(model, heads, vector(sites.channels(model, heads))[None]),
    }


VERBS = {
    verb.__name__: verb
    for verb in (
        *(forward, statistics, located, gradients, exact, gates, minimal, proof, probe, interventions, generated),
        *(evaluated, tuned, tuned_otherwise, watched, inspected, vectors),
    )
}
#: Where architectures differ.
CHIEF = ("statistics", "gradients", "interventions", "generated", "tuned", "vectors")


def short(found):
    """What a verb gave, short enough to be kept: a few numbers of each tensor and its length."""
    return {name: _plain(value) if _is_words(value) else _few(value) for name, value in found.items()}


def assert_same(found, expected, tolerance=1e-4):
    """Words and tokens are equal, numbers within a share of the largest."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        other = expected[name]
        if _is_words(value):
            assert _plain(value) == _plain(other), name
            continue
        a, b = (torch.as_tensor(each).cpu().double() for each in (value, other))
        torch.testing.assert_close(
            a, b, rtol=0, atol=tolerance * float(b.abs().max()) + 1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )


def _is_words(value):
    return isinstance(value, list) and not (value and isinstance(value[0], float))


def _few(value):
    flat = torch.as_tensor(value).double().flatten()
    step = max(1, len(flat) // 5)
    return [float(f"{number:.6g}") for number in (*flat[::step][:6].tolist(), float(flat.norm()))]


def _plain(value):
    """As it comes back from JSON."""
    return [list(each) if isinstance(each, tuple) else each for each in value]
