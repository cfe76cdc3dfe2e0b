"""Stored rows are the run's own: every setting is part of their key, and a changed byte is never read."""

import json
import logging
import random
import shutil
from dataclasses import fields, replace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from mechsurgery import (
    Circuit,
    Direction,
    Generation,
    Grade,
    PromptSet,
    ablate,
    applied,
    evaluate,
    mean_ablate,
    scale,
    shift_weights,
    steer,
)
from mechsurgery.delta_parts import LowRank, Rows
from mechsurgery.deltas import Dense, WeightDelta
from mechsurgery.digests import digest_of
from mechsurgery.errors import InputError
from mechsurgery.evaluation import jobs
from mechsurgery.evaluation.sampling import sample_pairs
from mechsurgery.evaluation.shards import Shards
from mechsurgery.intervention.changes import Affine, Custom
from mechsurgery.intervention.intervention import Edit, Intervention
from mechsurgery.models import load_model, sites
from mechsurgery.prompts import Prompt, Template

SITE, STREAM = "blocks.0.mlp.hook_post", "blocks.1.hook_resid_post"
SETTINGS = {"max_new_tokens": 2, "temperature": 0.9, "seeds": (0,), "template": Template()}

#: Changes after which the whole table is compared with one of no folder.
COMPARED = ("temperature", "system", "means for m", "weights", "choices", "stop tokens")


@pytest.fixture(scope="module")
def few(contrast):
    return contrast.positive.take(1)


@pytest.fixture(scope="module")
def questions():
    text = "Which is right, {}? A) one B) two"
    return PromptSet("questions", tuple(Prompt(f"q{i}", text.format(i), choices=("A", "B"), answer=i) for i in (0,)))


def circuit_at(model, *units, site=SITE):
    return Circuit.from_indices({site: units}, {site: sites.width(model, site)}, name="some")


@pytest.fixture
def measured(monkeypatch):
    """How many interventions are measured, on whatever prompts."""
    perform, done = jobs.perform, []

    def watched(model, job, *args, **options):
        done.extend(run.name for run in job.runs)
        return perform(model, job, *args, **options)

    monkeypatch.setattr(jobs, "perform", watched)
    return done


def asked(model, few, questions):
    """What the old folder was measured with: arguments of `evaluate`."""
    return {
        "model": model,
        "prompts": {"some": few, "questions": questions},
        "interventions": [scale(circuit_at(model, 0, 1), {SITE: [0.0, 5.0]})],
        "grades": (),
        "kl_on": ("some",),
        "generation": Generation(**SETTINGS),
    }


def changes(model, few, questions, other_model, other_tokenizer, other_stops):
    """{what is changed: the arguments that differ}; every one of them is another measurement."""
    unit = torch.nn.functional.one_hot(torch.tensor(3), model.cfg.d_model).float()
    means = torch.zeros(sites.width(model, SITE))
    means[:2] = torch.tensor([5.0, 0.0])
    weight = torch.zeros_like(model.blocks[0].mlp.W_out)
    weight[0, 0] = 0.5
    delta = WeightDelta({"blocks.0.mlp.W_out": Dense(weight)}, "w")
    said = {
        "max_new_tokens": {"max_new_tokens": 3},
        "temperature": {"temperature": 0.8},
        "greedy": {"temperature": 0.0},
        "seed": {"seeds": (1,)},
        "template": {"template": "plain"},
        "system": {"template": Template(system="you are kind")},
        "arguments": {"template": Template(arguments={"date_string": "1 May 2026"}, system="you are old")},
        "refusal tokens": {"refusal_tokens": (7, 8)},
        "batch": {"max_rows": 1},
    }
    runs = {
        "m of one unit": scale(circuit_at(model, 0, 1), {SITE: [0.0, 4.0]}),
        "m the other way round": scale(circuit_at(model, 0, 1), {SITE: [5.0, 0.0]}),
        "means for m": mean_ablate(circuit_at(model, 0, 1), {SITE: means}),
        "strength": scale(circuit_at(model, 0, 1), {SITE: [0.0, 5.0]}).at(0.5),
        "unit": scale(circuit_at(model, 0, 2), {SITE: [0.0, 5.0]}),
        "fewer units": ablate(circuit_at(model, 0)),
        "layer": scale(circuit_at(model, 0, 1, site="blocks.1.mlp.hook_post"), {"blocks.1.mlp.hook_post": [0.0, 5.0]}),
        "prompt end": scale(circuit_at(model, 0, 1), {SITE: [0.0, 5.0]}).at_prompt_end(),
        "direction": steer(Direction({STREAM: unit}, "some")),
        "length": steer(Direction({STREAM: unit}, "some"), 2.0),
        "sum": ablate(circuit_at(model, 0)) + steer(Direction({STREAM: unit}, "some")),
        "weights": shift_weights(delta),
    }
    longer = PromptSet("some", (replace(few.prompts[0], text=f"{few.prompts[0].text} Now."),))
    prefix = PromptSet("some", tuple(replace(prompt, prefix="Sure") for prompt in few))
    system = PromptSet("some", tuple(replace(prompt, system="Be brief.") for prompt in few))
    more = PromptSet("questions", tuple(replace(q, choices=("A", "B", "C")) for q in questions))
    return {
        **{name: {"generation": Generation(**SETTINGS | one)} for name, one in said.items()},
        **{name: {"interventions": [run.named("some")]} for name, run in runs.items()},
        **{
            name: {"prompts": {"some": one, "questions": questions}}
            for name, one in {"text": longer, "prefix": prefix, "system text": system}.items()
        },
        "choices": {"prompts": {"some": few, "questions": more}},
        "weights of the model": {"model": other_model},
        "tokenizer": {"model": other_tokenizer},
        "stop tokens": {"model": other_stops},
    }


@pytest.fixture(scope="module")
def old(tiny_llama, few, questions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    evaluate(**asked(tiny_llama, few, questions), folder=folder)
    return folder


def test_with_any_setting_changed_an_old_folder_gives_what_a_fresh_one_gives(
    tiny_llama, tiny_llama_dir, few, questions, old, tmp_path, measured
):
    models = [load_model(tiny_llama_dir) for _ in range(3)]
    with torch.no_grad():
        models[0].blocks[0].mlp.W_out[0, 0] += 1e-3
    models[1].tokenizer.add_tokens(["<new>"])
    models[2].stop_token_ids = (9,)
    base = asked(tiny_llama, few, questions)
    every = changes(tiny_llama, few, questions, *models)
    assert len(every) >= 22
    folder = tmp_path / "old"
    shutil.copytree(old, folder)
    for name, change in every.items():
        measured.clear()
        table = evaluate(**base | change, folder=folder).table
        assert "some" in measured, name
        if name in COMPARED:
            # What was measured in other batches may differ in its last digits.
            pd.testing.assert_frame_equal(table, evaluate(**base | change).table, obj=name, atol=1e-6)
    measured.clear()
    pd.testing.assert_frame_equal(evaluate(**base, folder=folder).table, evaluate(**base | {"folder": old}).table)
    assert not measured


def test_what_is_not_measured_makes_nothing_stale(tiny_llama, few, questions, old, measured, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(old, folder)
    base = asked(tiny_llama, few, questions)
    grouped = PromptSet("other name", tuple(replace(p, group="one", label="x", id=f"new {p.id}") for p in few))
    said = Grade("said", "1", lambda prompt, text: bool(text))
    same = {
        "names": {"interventions": [base["interventions"][0].named("else")]},
        "grades": {"grades": [said]},
        "ids, groups, labels, the set's name": {
            "prompts": {"other name": grouped, "questions": questions},
            "kl_on": ("other name",),
        },
        "less": {"kl_on": ()},
        "a template that writes the same": {"model": tiny_llama},
    }
    for name, change in same.items():
        evaluate(**base | change, folder=folder)
        assert not measured, name


def test_every_field_of_generation_is_among_the_changed_settings():
    assert {one.name for one in fields(Generation)} == {*SETTINGS, "refusal_tokens", "max_rows"}


def test_a_judges_kept_answers_are_those_of_its_name_version_scale_and_labels(tiny_llama, few, tmp_path):
    asked_for = []

    def judged(name, version, **how):
        def decide(items):
            asked_for.append((name, version))
            return [how["labels"][0] if how.get("labels") else 1 for _ in items]

        grade = Grade(name, version, decide_all=decide, **how)
        evaluate(tiny_llama, few, grades=[grade], generation=Generation(max_new_tokens=2), folder=tmp_path)
        return len(asked_for)

    assert judged("a", "1") == judged("a", "1") == 1
    found = [judged("a", "2"), judged("b", "1"), judged("a", "1", scale="number")]
    found += [judged("a", "1", labels=("x", "y")), judged("a", "1", labels=("y", "x"))]
    assert found == [2, 3, 4, 5, 6]


def test_four_hundred_flipped_bytes_never_give_another_table(old, tmp_path, caplog, monkeypatch):
    """13 of 400 gave a silently different table."""
    caplog.set_level(logging.CRITICAL)
    draw, shards = random.Random(0), sorted((old / "shards").iterdir())
    monkeypatch.setattr(Shards, "_name", lambda shards, key: key)
    for _ in range(400):
        path = draw.choice(shards)
        content = bytearray(path.read_bytes())
        key = json.loads(pq.read_schema(path).metadata[b"mechsurgery"])["key"]
        assert Shards(old).find(key) is not None
        place = draw.randrange(len(content))
        content[place] ^= 1 << draw.randrange(8)
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / path.name).write_bytes(content)
        assert Shards(tmp_path).find(key) is None, (path.name, place)


def test_another_shards_content_and_a_cut_one_are_measured_again(tiny_llama, few, questions, old, tmp_path, caplog):
    folder = tmp_path / "old"
    shutil.copytree(old, folder)
    paths = sorted((folder / "shards").iterdir())
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, [*contents[1:], contents[0][:-40]]):
        path.write_bytes(content)
    base = asked(tiny_llama, few, questions)
    pd.testing.assert_frame_equal(evaluate(**base, folder=folder).table, evaluate(**base).table)
    assert "measured again" in caplog.text
    assert [path.read_bytes() for path in paths] == contents


def test_nothing_is_measured_on_a_model_that_something_acts_on(tiny_llama, few, tmp_path):
    delta = WeightDelta({"blocks.0.mlp.b_out": Dense(torch.ones_like(tiny_llama.blocks[0].mlp.b_out))}, "w")
    module = tiny_llama.blocks[0].mlp

    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    def refused():
        with pytest.raises(InputError, match="not the unmodified one"):
            evaluate(tiny_llama, few, folder=tmp_path)
        with pytest.raises(InputError, match="not the unmodified one"):
            sample_pairs(tiny_llama, few, Grade("g", "1", lambda *_: True), folder=tmp_path)

    for run in (ablate(circuit_at(tiny_llama, 0)), shift_weights(delta)):
        with applied(tiny_llama, run):
            refused()
    for add in (module.register_forward_hook, module.register_forward_pre_hook):
        handle = add(lambda *_: None)
        refused()
        handle.remove()
    with tiny_llama.hooks(fwd_hooks=[(SITE, lambda activation, hook: activation)]):
        refused()
    parametrize.register_parametrization(module, "W_out", Twice())
    refused()
    parametrize.remove_parametrizations(module, "W_out", leave_parametrized=False)
    assert not list(tmp_path.iterdir())
    evaluate(tiny_llama, few, generation=Generation(max_new_tokens=1))


def test_a_digest_tells_apart_what_is_written_alike():
    nan = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    unlike = [
        *(["ab", "c"], ["a", "bc"], ["abc"], "abc", b"abc", [["a"], "bc"], "1", 1, 1.0, True, None, "None", [], {}, ""),
        *({"a": 1, "b": 2}, {"a": 2, "b": 1}, [("a", 1), ("b", 2)], {"1": 0}, {1: 0}, (1, [2, 3]), ([1, 2], 3)),
        *(torch.zeros(4), torch.zeros(2, 2), torch.zeros(4).double(), torch.zeros(4).bfloat16(), nan[:1], nan[1:]),
        *(0.0, -0.0, Affine(torch.ones(1), torch.zeros(2)), Affine(torch.ones(2), torch.zeros(1)), "\ud800", "\udc00"),
        *(Rows(torch.arange(2), torch.ones(2, 2), axis, 2) for axis in (0, 1)),
        *(LowRank(torch.ones(4, 1), torch.ones(1, 4), (2, 2, 4), output) for output in (True, False)),
        *(Custom(len, "k", reads) for reads in (None, "k")),
    ]
    found = [digest_of(one) for one in unlike]
    assert len(set(found)) == len(unlike)
    assert digest_of([1, 2]) == digest_of((1, 2))
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    edits = [Edit(SITE, Affine(torch.ones(1), torch.ones(4)), 4, joined=joined) for joined in (True, False)]
    assert len({Intervention("x", (edit,)).digest for edit in edits}) == 2


def test_a_digest_of_a_function_is_that_of_what_it_does():
    def made(share, again=1.0):
        return lambda model: share + again

    assert digest_of(made(0.5)) == digest_of(made(0.5))
    assert len({digest_of(one) for one in (made(0.5), made(0.6), made(0.5, 2.0), lambda model: 0.5)}) == 4
    with pytest.raises(InputError, match="attribute `digest`"):
        digest_of(iter([1]))
