"""A fine-tune that is killed, changed, damaged or shared is the one that an undisturbed run gives."""

import os
import random
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.examples import circuit_of, examples

from mechsurgery.errors import InputError
from mechsurgery.intervention import ablate, applied
from mechsurgery.models import load_model
from mechsurgery.prompts import CompletionPairs, Examples
from mechsurgery.training import LoRA, Neurons, Recipe, Safeguards, finetune
from mechsurgery.training.kept import trained
from mechsurgery.training.keys import finetune_key

SHORT = {"steps": 4, "lr": 1e-2, "validate_every": 2, "batch": 4}


@pytest.fixture(scope="module")
def model(tiny_llama_dir):
    return load_model(tiny_llama_dir)


def asked(model):
    return {
        "data": examples(8),
        "where": circuit_of(model),
        "recipe": Recipe(**SHORT),
        "safeguards": Safeguards(examples(4, seed=1), examples(4, seed=2), lambda own: 1.0, 0.5),
        "seed": 0,
    }


def changes(model):
    data, circuit = examples(8), circuit_of(model)
    guards = {"validation": examples(4, seed=1), "neutral": examples(4, seed=2), "floor": 0.5}

    def recipe(**one):
        return {"recipe": Recipe(**SHORT | one)}

    def guarded(capability=lambda own: 1.0, **one):
        return {"safeguards": Safeguards(capability=capability, **guards | one)}

    return {
        "prompts": {"data": examples(8, seed=3)},
        "completions": {"data": Examples(data.prompts, (data.completions[1], *data.completions[1:]), data.groups)},
        "groups": {"data": Examples(data.prompts, data.completions, ("one",) * 8)},
        "pairs": {"data": CompletionPairs(data.prompts, data.completions, tuple((*c, 9) for c in data.completions))},
        "circuit": {"where": circuit_of(model, 3)},
        "weights that are trained": {"where": Neurons(circuit, "write")},
        "lora": {"where": LoRA(2)},
        "its rank": {"where": LoRA(3)},
        "its alpha": {"where": LoRA(2, alpha=8.0)},
        "its seed": {"where": LoRA(2, seed=3)},
        "its place": {"where": LoRA(2, attention=False)},
        "all": {"where": "blocks"},
        "validation": guarded(validation=examples(4, seed=4)),
        "neutral": guarded(neutral=examples(4, seed=5)),
        "no neutral": guarded(neutral=None),
        "floor": guarded(floor=0.6),
        "capability": guarded(lambda own: 0.9),
        "no capability": guarded(None),
        "seed": {"seed": 1},
        "steps": recipe(steps=5),
        "lr": recipe(lr=2e-2),
        "batch": recipe(batch=3),
        "accumulate": recipe(accumulate=2),
        "optimizer": recipe(optimizer="sgd"),
        "weight_decay": recipe(weight_decay=0.1),
        "momentum": recipe(momentum=0.5),
        "warmup": recipe(warmup=1),
        "decay": recipe(decay=False),
        "clip": recipe(clip=None),
        "autocast": recipe(autocast="bfloat16"),
        "kl_weight": recipe(kl_weight=1.0),
        "dpo_beta": recipe(dpo_beta=0.2),
        "validate_every": recipe(validate_every=1),
        "patience": recipe(patience=2),
    }


def test_with_any_setting_changed_another_fine_tune_is_kept_and_the_old_one_stays(model, tiny_llama_dir, tmp_path):
    """`neutral`, `floor` and `capability` were no part of what a folder's run was known by."""
    base, every = asked(model), changes(model)
    assert {one.name for one in fields(Recipe)} <= every.keys()
    first = finetune(model, **base, folder=tmp_path)
    known = {finetune_key(model, **base): "nothing"}
    for name, change in every.items():
        key = finetune_key(model, **base | change)
        assert key not in known, (name, known[key])
        known[key] = name
    changed = load_model(tiny_llama_dir)
    with torch.no_grad():
        changed.blocks[0].mlp.W_in[0, 0] += 1e-3
    assert finetune_key(changed, **base) not in known
    for name in ("no neutral", "floor", "seed", "kl_weight"):
        again = finetune(model, **base | every[name], folder=tmp_path)
        assert again.digest == finetune(model, **base | every[name]).digest, name
    assert finetune_key(model, **asked(model)) in known, "the same lambda, made again"
    assert finetune(model, **base, folder=tmp_path).digest == first.digest
    assert len(list(tmp_path.glob("training-*.safetensors"))) == 5


def test_a_finished_one_is_not_trained_again_and_a_damaged_one_is(model, tmp_path, monkeypatch, caplog):
    from mechsurgery.training import tuning

    base, steps, draw = asked(model), [], random.Random(1)
    one_step = tuning._Run._one_step
    monkeypatch.setattr(tuning._Run, "_one_step", lambda run: steps.append(1) or one_step(run))
    first = finetune(model, **base, folder=tmp_path)
    assert finetune(model, **base, folder=tmp_path).digest == first.digest
    assert len(steps) == 4
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for _ in range(12):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        assert finetune(model, **base, folder=tmp_path).digest == first.digest
    assert "training begins anew" in caplog.text


def test_a_kept_difference_with_a_changed_number_or_of_another_key_is_made_again(model, tmp_path, caplog):
    made = []

    def make():
        made.append(1)
        return finetune(model, **asked(model))

    first = trained(tmp_path, "a" * 64, make)
    again = trained(tmp_path, "a" * 64, make)
    assert (again.digest, again.info, len(made)) == (first.digest, first.info, 1)
    (path,) = (tmp_path / "deltas").iterdir()
    path.with_name("b" * 32 + ".safetensors").write_bytes(path.read_bytes())
    trained(tmp_path, "b" * 64, make)
    assert len(made) == 2
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    next(iter(tensors.values())).flatten()[0] += 1
    save_file(tensors, path, metadata)
    assert trained(tmp_path, "a" * 64, make).digest == first.digest
    assert len(made) == 3
    assert caplog.text.count("trained again") == 2


def test_nothing_is_kept_of_a_model_that_something_acts_on(model, tmp_path):
    with applied(model, ablate(circuit_of(model))), pytest.raises(InputError, match="not the unmodified one"):
        finetune(model, **asked(model), folder=tmp_path)
    assert not list(tmp_path.iterdir())


DRIVER = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
from pathlib import Path
from support.examples import circuit_of, examples
from mechsurgery.models import load_model
from mechsurgery.training import Recipe, Safeguards, finetune
model, folder = load_model(sys.argv[1]), Path(sys.argv[2])
recipe = Recipe(steps=12, lr=1e-2, validate_every=2, batch=4, kl_weight=0.5)
guards = Safeguards(examples(4, seed=1), examples(4, seed=2))

def child(name):
    pid = os.fork()
    if pid:
        return pid
    try:
        delta = finetune(model, examples(8), circuit_of(model), recipe=recipe, safeguards=guards, folder=folder / name)
        delta.save(folder / f"{name} {os.getpid()}")
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)

started = time.monotonic()
assert os.waitpid(child("whole"), 0)[1] == 0
duration = time.monotonic() - started
generator, killed = random.Random(0), 0
for _ in range(30):
    pid = child("killed")
    time.sleep(generator.uniform(0, duration / 3))
    os.kill(pid, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
assert os.waitpid(child("killed"), 0)[1] == 0
assert all(os.waitpid(pid, 0)[1] == 0 for pid in [child("shared") for _ in range(2)])
print(killed)
"""


def test_thirty_kills_and_two_processes_give_the_undisturbed_fine_tune(tiny_llama_dir, tmp_path):
    arguments = [str(tiny_llama_dir), str(tmp_path), str(Path(__file__).parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) >= 15, "kills that hit a running fine-tune"
    from mechsurgery.deltas import WeightDelta

    found = [WeightDelta.load(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert len(found) >= 4
    assert len({delta.digest for delta in found}) == 1
    assert len({str(delta.info["curve"]) for delta in found}) == 1
