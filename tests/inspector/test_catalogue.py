"""Everything that a unit's page says equals what plain code finds."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from support.dictionaries import random_dictionary

from mechsurgery import PromptSet, ablate, inspect, locate, mean_ablate, scale
from mechsurgery.attribution import contrast_statistics, objectives, score
from mechsurgery.errors import InputError, MismatchError, SiteError
from mechsurgery.inspector import Catalogue
from mechsurgery.intervention.latents import scale_latents
from mechsurgery.models import load_model
from mechsurgery.models.tokens import pieces
from mechsurgery.names import neurons
from mechsurgery.prompts import ContrastSet, encode
from mechsurgery.units import Circuit, UnitScores

SITE = neurons(1)


@pytest.fixture(scope="module")
def circuit(tiny_llama, contrast):
    return locate(tiny_llama, contrast, k=6)


@pytest.fixture(scope="module")
def other(tiny_checkpoint):
    return load_model(tiny_checkpoint("llama", vocab_size=369))


@pytest.fixture(scope="module")
def objective(tiny_llama, contrast):
    return objectives.from_function(
        tiny_llama, contrast.positive, lambda logits, read: logits[:, -1, 7] - logits[:, -1, 11], name="seven"
    )


@pytest.fixture(scope="module")
def catalogue(tiny_llama, contrast, circuit, other, objective):
    return Catalogue(
        tiny_llama, contrast, circuit, base=other, objective=objective, at_most=12, responses=2, effect_rows=100
    )


@pytest.fixture(scope="module")
def every_token(tiny_llama, contrast):
    """{side: [(prompt id, token ids, {site: activations})]}, one prompt at a time."""
    found = {}
    for name, side in (("positive", contrast.positive), ("negative", contrast.negative)):
        for prompt, ids in zip(side, encode(tiny_llama.tokenizer, side)):
            with torch.no_grad():
                _, cache = tiny_llama.run_with_cache(torch.tensor([ids]))
            kept = {neurons(layer): cache[neurons(layer)][0].numpy() for layer in range(tiny_llama.cfg.n_layers)}
            found.setdefault(name, []).append((prompt.id, ids, kept))
    return found


def test_the_table_holds_the_circuit_first_then_the_top_of_every_rule(catalogue, circuit):
    table = catalogue.to_frame()
    assert len(table) == 12
    assert {tuple(row) for row in table[["site", "index"]].head(6).to_numpy()} == circuit.members()
    assert table["in_circuit"].tolist() == [True] * 6 + [False] * 6
    assert table["m"].head(6).eq(0).all()
    rest = {tuple(row) for row in table[["site", "index"]].tail(6).to_numpy()}
    tops = set().union(*(found.top(k=8).members() for found in catalogue.scores.values()))
    assert rest <= tops


def test_scores_and_ranks_are_those_of_the_rules(catalogue, tiny_llama, contrast):
    statistics = contrast_statistics(tiny_llama, contrast)
    ranks = catalogue.ranks(catalogue.units)
    for rule in ("difference", "effect_size"):
        plain = score(statistics, rule)
        for row in ranks[ranks["rule"] == rule].itertuples():
            unit = catalogue.unit(row.unit)
            assert row.score == pytest.approx(plain.score_of(*unit.coordinate), rel=1e-5)
            assert row.rank == plain.rank_of(*unit.coordinate) + 1


def test_effects_of_one_unit_alone_are_those_of_a_plain_hook(catalogue, tiny_llama, contrast):
    unit = catalogue.units[0]
    ids = encode(tiny_llama.tokenizer, contrast.positive)

    def mean(m):
        def hook(activation, hook):
            activation[:, :, unit.index] *= m
            return activation

        values = []
        for row in ids:
            with torch.no_grad(), tiny_llama.hooks(fwd_hooks=[(unit.site, hook)]):
                logits = tiny_llama(torch.tensor([row]))[0, -1]
            values.append(float(logits[7] - logits[11]))
        return np.mean(values)

    view = catalogue.view(unit)
    for row in view.effects.itertuples():
        assert row.value == pytest.approx(mean(row.m), abs=1e-4)
    table = catalogue.to_frame().iloc[0]
    assert table["ablated"] == pytest.approx(mean(0) - mean(1), abs=1e-4)
    assert table["doubled"] == pytest.approx(mean(2) - mean(1), abs=1e-4)
    assert view.effect_at(2.0) == pytest.approx(table["doubled"], abs=1e-5)


def test_contexts_are_the_strongest_over_all_tokens(catalogue, every_token, tiny_llama):
    unit = catalogue.units[0]
    view = catalogue.view(unit)
    rows = [
        (np.abs(kept[unit.site][:, unit.index]).max(), name, kept[unit.site][:, unit.index], ids)
        for side in every_token.values()
        for name, ids, kept in side
    ]
    rows.sort(key=lambda row: -row[0])
    prompts = view.contexts[view.contexts["source"] == "prompt"]
    assert len(prompts) == 12
    assert prompts["activation"].abs().tolist() == pytest.approx([row[0] for row in rows[:12]], rel=1e-4)
    best = prompts.iloc[0]
    assert best["position"] == int(np.abs(rows[0][2]).argmax())
    assert best["tokens"] == pieces(tiny_llama.tokenizer, rows[0][3])[: len(best["tokens"])]
    assert best["values"][best["at"]] == pytest.approx(best["activation"])
    answers = view.contexts[view.contexts["source"] == "response"]
    assert len(answers)
    for row in answers.itertuples():  # the strongest token is one that the model said
        prompt = next(ids for side in every_token.values() for name, ids, _ in side if name == row.prompt_id)
        assert row.position >= len(prompt)


def test_activations_on_both_sides_in_both_models(catalogue, every_token, other, contrast):
    unit = catalogue.units[0]
    table = catalogue.view(unit).activations
    here = table[table["model"] == catalogue.model_name]
    for name, side in every_token.items():
        own = here[here["side"] == name]["activation"].to_numpy()
        np.testing.assert_allclose(own, [kept[unit.site][-1, unit.index] for *_, kept in side], atol=1e-5)
    there = table[table["model"] != catalogue.model_name]
    means = there.groupby("side")["activation"].mean()
    plain = contrast_statistics(other, contrast).difference(unit.site)[unit.index]
    assert means["positive"] - means["negative"] == pytest.approx(float(plain), abs=1e-5)


def test_neighbours_write_and_fire_alike(catalogue, every_token, tiny_llama, contrast):
    unit = catalogue.units[0]
    catalogue = Catalogue(tiny_llama, contrast, units=[unit], responses=0, effects=False, at_most=1)
    table = catalogue.view(unit).neighbours
    sites = [neurons(layer) for layer in range(tiny_llama.cfg.n_layers)]
    rows = torch.cat([tiny_llama.W_out[layer] for layer in range(tiny_llama.cfg.n_layers)]).detach()
    names = [f"L{layer}.{i}" for layer in range(tiny_llama.cfg.n_layers) for i in range(tiny_llama.cfg.d_mlp)]
    own = names.index(unit.name)
    cosine = torch.nn.functional.cosine_similarity(rows, rows[own][None], dim=1).numpy()
    joined = [np.concatenate([kept[s] for s in sites], axis=1) for side in every_token.values() for *_, kept in side]
    correlation = np.corrcoef(np.concatenate(joined), rowvar=False)[own]
    for by, values in (("write direction", cosine), ("co-activation", correlation)):
        part = table[table["by"] == by]
        order = [i for i in np.argsort(-values) if i != own][:8]
        assert part["unit"].tolist() == [names[i] for i in order]
        np.testing.assert_allclose(part["value"], values[order], atol=1e-4)


def test_what_it_reads_is_the_gate_and_up_direction_behind_the_norm(tiny_llama):
    view = inspect(tiny_llama, (1, 5))
    for part, weight in (("gate", tiny_llama.W_gate), ("up", tiny_llama.W_in)):
        direction = weight[1, :, 5] * tiny_llama.blocks[1].ln2.w
        cosine = torch.cosine_similarity(tiny_llama.W_E, direction[None], dim=1).detach()
        own = view.reads[view.reads["part"] == part]
        assert own["cosine"].iloc[0] == pytest.approx(float(cosine.max()), abs=1e-5)
        assert own["token"].iloc[0] == tiny_llama.tokenizer.decode([int(cosine.argmax())])
    assert not len(view.contexts)
    assert set(view.figures()) == {"tokens"}


def test_latents_have_the_same_page(tiny_llama, contrast):
    dictionary = random_dictionary("blocks.0.hook_resid_post", tiny_llama.cfg.d_model, k=3)
    catalogue = Catalogue(tiny_llama, contrast, units=["random/4"], dictionaries=[dictionary], effects=False, at_most=1)
    view = catalogue.view("random/4")
    assert view.kind == "latent"
    assert view.facts["density"] <= 1
    assert set(view.reads["part"]) == {"encoder"}
    same = inspect(tiny_llama, 4, contrast, dictionary=dictionary, effects=False)
    pd.testing.assert_frame_equal(same.writes, view.writes)
    with pytest.raises(SiteError, match="latents 0 to 47"):
        catalogue.view("random/48")


def test_a_circuits_own_multipliers_are_shown(tiny_llama, contrast, circuit):
    m = {site: [0.5 + i for i in range(len(index))] for site, (index, _) in circuit.units.items()}
    catalogue = Catalogue(tiny_llama, contrast, circuit, intervention=scale(circuit, m).at(0.5), effects=False)
    table = catalogue.to_frame().query("in_circuit").set_index(["site", "index"])["m"]
    for site, (index, _) in circuit.units.items():
        for place, i in enumerate(index.tolist()):
            assert table[site, i] == pytest.approx(1 - 0.5 * (1 - m[site][place]))
    assert catalogue.document()["circuit"]["m"] is None
    whole = Catalogue(tiny_llama, contrast, circuit, intervention=ablate(circuit), effects=False)
    assert whole.document()["circuit"]["m"] == 0.0


def test_the_document_is_strict_json_and_complete(catalogue):
    document = json.loads(json.dumps(catalogue.document(), allow_nan=False))
    assert len(document["units"]) == 12
    assert {rule["name"] for rule in document["scores"]} == set(catalogue.scores)
    for rule in document["scores"]:
        assert [layer["layer"] for layer in rule["layers"]] == list(range(catalogue.model.cfg.n_layers))
        values = catalogue.scores[rule["name"]].scores[neurons(2)].numpy()
        np.testing.assert_allclose(
            rule["layers"][2]["quantiles"], np.quantile(values, [0, 0.01, 0.25, 0.5, 0.75, 0.99, 1]), rtol=1e-4
        )
    assert document["base"] is not None
    assert document["effect"]["name"] == "seven"
    assert set(document["units"][0]["ranks"]) == set(catalogue.scores)


@pytest.mark.parametrize("given", ["L1.17", (1, 17), (SITE, 17), f"{SITE}/17", {"layer": 1, "neuron": 17}])
def test_every_way_to_name_a_unit(tiny_llama, given):
    assert inspect(tiny_llama, given).name == "L1.17"


def test_a_row_of_a_table_names_a_unit(tiny_llama, circuit, catalogue):
    row = circuit.to_frame().iloc[2]
    view = inspect(tiny_llama, row)
    assert (view.site, view.index) == (row["site"], row["neuron"])
    assert inspect(tiny_llama, catalogue.to_frame().iloc[2]).name == catalogue.units[2].name


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("neuron 17", InputError, "L5.446"),
        ("L1.9999", SiteError, "no unit 9999"),
        ("L9.1", SiteError, "layers"),
        ("blocks.1.attn.hook_z/0", SiteError, "attention heads"),
        ("L1." + "9" * 4000, InputError, "no unit|not allowed"),
        ({"token": 4}, InputError, "site or layer"),
        ((1, 2.5), InputError, "L5.446"),
        (None, InputError, "L5.446"),
    ],
)
def test_names_that_are_none(tiny_llama, given, error, words):
    with pytest.raises((error, SiteError), match=words):
        inspect(tiny_llama, given)


def test_a_circuit_of_another_model_is_refused(tiny_llama, contrast):
    other = Circuit.from_indices({SITE: [1]}, {SITE: 8})
    with pytest.raises(MismatchError, match="8 units"):
        Catalogue(tiny_llama, contrast, other)
    with pytest.raises(InputError, match="minimal_circuit"):
        Catalogue(tiny_llama, contrast, circuit="circuit.safetensors")


def test_scores_of_ones_own_are_shown_too(tiny_llama, contrast):
    own = UnitScores({SITE: torch.arange(float(tiny_llama.cfg.d_mlp))}, "mine", {})
    catalogue = Catalogue(tiny_llama, contrast, scores={"mine": own}, effects=False, at_most=8, responses=0)
    assert f"L1.{tiny_llama.cfg.d_mlp - 1}" in {unit.name for unit in catalogue.units}
    assert "mine" in catalogue.to_frame()


def test_texts_are_escaped_and_words_stand_apart(tiny_llama):
    bad = "<img src=x onerror=alert(1)></script>\u202eabc"
    sides = [f"Tell me {bad} number {i}" for i in range(3)], [f"Say 你好 🙂 to {i}" for i in range(3)]
    contrast = ContrastSet(
        "<b>bad</b>", PromptSet.from_texts(sides[0], name="<i>x</i>"), PromptSet.from_texts(sides[1], name="y")
    )
    view = inspect(tiny_llama, "L1.3", contrast, effects=False, responses=0)
    page = view._repr_html_()
    assert "<img" not in page
    assert "</script" not in page
    assert "<i>x</i>" not in page
    assert "\u202e" not in page


def test_it_can_be_saved_and_needs_nothing(catalogue, tmp_path):
    path = catalogue.view(catalogue.units[0]).save(tmp_path / "neuron.html")
    page = path.read_text("utf-8")
    assert "<script" not in page
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page


def test_latents_have_their_own_multipliers_and_what_only_multiplies_is_taken(tiny_llama, contrast, circuit):
    dictionary = random_dictionary("blocks.0.hook_resid_post", tiny_llama.cfg.d_model, k=3)
    latents = Circuit.from_indices({dictionary.site: [3, 9]}, {dictionary.site: dictionary.n_latents}, name="two")
    for m, wanted in ((2.0, [1.5, 1.5]), ([3.0, 0.0], [2.0, 0.5])):
        run = scale_latents(latents, dictionary, m).at(0.5)
        made = Catalogue(tiny_llama, contrast, latents, intervention=run, dictionaries=[dictionary], effects=False)
        assert [made.multipliers[dictionary.site, i] for i in (3, 9)] == wanted
    means = {site: torch.ones(n) for site, n in circuit.widths.items()}
    with pytest.raises(InputError, match="only multiply"):
        Catalogue(tiny_llama, contrast, circuit, intervention=mean_ablate(circuit, means))


def test_one_prompt_a_side_is_enough_for_what_needs_no_spread(tiny_llama):
    view = inspect(tiny_llama, "L1.3", ContrastSet.from_lists(["Tell me a joke"], ["What is rain"], name="x"))
    assert set(view.ranks["rule"]) >= {"difference", "difference_write_norm"}
    assert "welch_t" not in set(view.ranks["rule"])


def test_a_base_that_is_none_of_it_is_refused_at_once(tiny_llama, contrast, tiny_checkpoint):
    narrow = load_model(tiny_checkpoint("llama", intermediate_size=96))
    with pytest.raises(MismatchError, match="same units"):
        Catalogue(tiny_llama, contrast, base=narrow)
    with pytest.raises(InputError, match="at least 1"):
        Catalogue(tiny_llama, contrast, effect_rows=0)
