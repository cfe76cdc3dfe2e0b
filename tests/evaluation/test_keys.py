"""Kept rows are found only by all they depend on; what would mislead is refused, before anything runs, or missing."""

from inspect import unwrap

import numpy as np
import pandas as pd
import pytest
import torch

from mechsurgery import (
    Circuit,
    Direction,
    Generation,
    Grade,
    PromptSet,
    Results,
    ablate,
    applied,
    evaluate,
    scale,
    shift_weights,
    steer,
)
from mechsurgery.deltas import Dense, WeightDelta
from mechsurgery.errors import InputError, PromptError
from mechsurgery.evaluation import jobs, summarise
from mechsurgery.evaluation.shards import key_of
from mechsurgery.intervention import bake
from mechsurgery.models import load_model, sites
from mechsurgery.prompts import Prompt

FEW = Generation(max_new_tokens=3)


@pytest.fixture(scope="module")
def circuit(tiny_llama):
    widths = sites.neuron_widths(tiny_llama)
    return Circuit.from_indices({site: range(0, 40, 2) for site in widths}, widths, name="some")


@pytest.fixture(scope="module")
def questions():
    prompts = (Prompt(f"q{i}", f"Which is right, {i}? A) one B) two", choices=("A", "B"), answer=i % 2) for i in (0, 1))
    return PromptSet("questions", tuple(prompts))


def values(results, metric):
    table = results.table
    return table.loc[(table["metric"] == metric) & (table["kind"] != "baseline"), "value"].tolist()


def test_kl_is_measured_on_the_first_seeds_responses_also_beside_other_seeds(tiny_llama, contrast, circuit, tmp_path):
    """Seeds (0, 1) kept KL on seed 0's responses under seed 1's key, where seeds (1,) then found it."""

    def kl(seeds, folder=None):
        settings = Generation(max_new_tokens=5, temperature=2.0, seeds=seeds)
        options = {"kl_on": ["positive"], "generation": settings, "folder": folder, "grades": ()}
        return values(evaluate(tiny_llama, contrast.positive, [scale(circuit, -3.0)], **options), "kl")

    both = kl((0, 1), tmp_path)
    assert kl((1,), tmp_path) == kl((1,)) != both
    assert kl((0,), tmp_path) == kl((0,)) == both


def test_a_model_with_hooks_on_it_is_refused(tiny_llama, contrast, circuit, tmp_path):
    """A fingerprint does not see hooks: rows of the changed model would be found as the unmodified one's."""
    with applied(tiny_llama, ablate(circuit)), pytest.raises(InputError, match="hooks on it"):
        evaluate(tiny_llama, contrast.positive, generation=FEW, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_kl_cannot_be_asked_of_sets_that_are_answered_by_letter(tiny_llama, questions):
    with pytest.raises(InputError, match="letter"):
        evaluate(tiny_llama, questions, kl_on=["questions"])


@pytest.mark.parametrize("name", ["tokens", "first_token", "choice", "margin", "kl"])
def test_a_grade_does_not_take_the_name_of_what_is_measured_anyway(name, tiny_llama, contrast):
    with pytest.raises(InputError, match=name):
        evaluate(tiny_llama, contrast.positive, grades=[Grade(name, "1", lambda prompt, text: True)])


def test_two_interventions_do_not_share_a_name_at_different_strengths(tiny_llama, contrast, circuit):
    """Their rows would be one sweep."""
    vector = torch.ones(tiny_llama.cfg.d_model)
    runs = [ablate(circuit).at(0.5), steer(Direction({"blocks.1.hook_resid_post": vector}, "some"))]
    with pytest.raises(InputError, match="both named .some"):
        evaluate(tiny_llama, contrast.positive, runs)


def test_a_prompt_that_does_not_fit_stops_everything_before_it_starts(tiny_llama, contrast, monkeypatch):
    monkeypatch.setattr(jobs, "perform", lambda *_, **__: pytest.fail("something ran"))
    long = PromptSet.from_texts(["How do I make " * 60], name="long")
    with pytest.raises(PromptError, match="do not fit"):
        evaluate(tiny_llama, {"fits": contrast.positive, "long": long}, generation=FEW)


def test_keys_take_numpys_numbers_for_what_they_are():
    assert key_of({"seed": np.int64(3), "temperature": np.float32(1)}) == key_of({"seed": 3, "temperature": 1.0})


def test_kept_judgements_depend_on_all_that_a_judge_is_shown(tiny_llama, tmp_path):
    asked = []

    def by_label(items):
        asked.extend(prompt.label for prompt, _ in items)
        return [prompt.label == "yes" for prompt, _ in items]

    def judged(label):
        prompts = PromptSet("one", (Prompt("a", "Hello there", label=label),))
        options = {"generation": FEW, "folder": tmp_path, "grades": [Grade("judged", "1", decide_all=by_label)]}
        table = evaluate(tiny_llama, prompts, **options).table
        return table.loc[table["metric"] == "judged", "value"].tolist()

    assert (judged("yes"), judged("no"), judged("yes")) == ([1.0], [0.0], [1.0])
    assert asked == ["yes", "no"]


def test_one_prompt_without_a_grade_in_the_baseline_leaves_the_others_paired(tiny_llama, contrast, circuit):
    """It used to leave the whole cell without a baseline, a difference and a p-value."""
    first = contrast.positive.ids[0]
    long = Grade("long", "1", lambda prompt, text: None if prompt.id == first else len(text) > 8)
    results = evaluate(tiny_llama, contrast.positive, [scale(circuit, -3.0)], grades=[long], generation=FEW)
    table = results.table[results.table["metric"] == "long"].copy()
    changed = table["kind"] != "baseline"
    table.loc[changed & (table["prompt_id"] == first), "value"] = 1.0
    _, cell = (row for _, row in summarise(table).iterrows())
    others = table[table["prompt_id"] != first]
    before = others.loc[others["kind"] == "baseline", "value"].mean()
    assert (cell["n"], cell["baseline"]) == (len(contrast.positive), before)
    assert cell["difference"] == pytest.approx(others.loc[others["kind"] != "baseline", "value"].mean() - before)
    assert 0 < cell["p_value"] <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"seeds": (0, 0), "temperature": 1.0},
        {"seeds": ()},
        {"max_rows": 0},
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
    ],
)
def test_settings_that_mean_nothing_are_refused_when_they_are_made(wrong):
    with pytest.raises(InputError):
        Generation(**wrong)


def test_a_sweep_inside_the_list_of_interventions_is_said_to_be_one(tiny_llama, contrast, circuit):
    with pytest.raises(InputError, match="flat list"):
        unwrap(evaluate)(tiny_llama, contrast.positive, [ablate(circuit).at([0.5, 1.0])])
    with pytest.raises(InputError, match="flat list"):
        unwrap(evaluate)(tiny_llama, contrast.positive, ablate(circuit))


def test_models_of_one_name_and_different_weights_are_kept_apart(tiny_llama_dir, contrast, circuit):
    """Their rows used to be one cell, of twice as many responses, against the baseline of the last."""
    model, parts = load_model(tiny_llama_dir), []
    for _ in range(2):
        parts.append(evaluate(model, contrast.positive, [ablate(circuit)], generation=FEW))
        bake(model, scale(circuit, -2.0))
    both = Results.concatenate(parts).summary()
    assert both["model"].nunique() == 2
    for part in parts:
        alone = part.summary()
        mark = part.table["fingerprint"].iloc[0]
        mine = both[both["model"].str.endswith(mark)].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine.drop(columns="model"), alone.drop(columns="model"))
    with pytest.raises(InputError, match="different weights"):
        summarise(pd.concat([part.table for part in parts]))


def test_a_large_difference_is_digested_once(tiny_llama, contrast, monkeypatch):
    """It was at every key: dozens of times in a small sweep, seconds each for a whole model."""
    read = []
    tensors = Dense.tensors
    delta = WeightDelta({"blocks.0.mlp.W_out": Dense(torch.ones_like(tiny_llama.blocks[0].mlp.W_out))})
    monkeypatch.setattr(Dense, "tensors", lambda part: read.append(1) or tensors(part))
    evaluate(tiny_llama, contrast.positive, shift_weights(delta).at([1, -1, 0.5]), generation=FEW)
    assert len(read) == 1
