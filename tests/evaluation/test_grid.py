"""A sweep that is killed, repeated, shared or changed gives the rows of an undisturbed one, each once."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from mechsurgery import Circuit, Direction, PromptSet, ablate, evaluate
from mechsurgery.evaluation import sweep
from mechsurgery.intervention import steer
from mechsurgery.models import load_model, sites
from mechsurgery.prompts import Prompt

EVALUATE = sys.modules["mechsurgery.evaluation.evaluate"]


def runs_of(model, n=6):
    names = sites.neuron_sites(model)
    widths = {site: sites.width(model, site) for site in names}
    circuits = [
        Circuit.from_indices({site: range(i, widths[site], 9) for site in names}, widths, name=f"c{i}")
        for i in range(n)
    ]
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    steering = steer(Direction({sites.residual_sites(model, [1])[0]: vector}, "steering"))
    return sweep([*(ablate(c) for c in circuits), steering], (0.5, 1, -1))


def grid(model, contrast, folder, **changes):
    questions = PromptSet(
        "questions",
        tuple(
            Prompt(f"q{i}", f"Which is right, {i}? A) one B) two", choices=("A", "B"), answer=i % 2) for i in range(3)
        ),
    )
    options = {"choices": questions, "kl_on": ("negative",), "max_new_tokens": 5, "max_rows": 6, "folder": folder}
    sets = {"positive": contrast.positive, "negative": contrast.negative.take(6)}
    return evaluate(model, sets, runs_of(model), **{**options, **changes})


@pytest.fixture(scope="module")
def undisturbed(tiny_llama, contrast):
    return grid(tiny_llama, contrast, None).table


def test_a_folder_changes_no_row_and_a_second_run_measures_nothing(
    tiny_llama, contrast, undisturbed, tmp_path, monkeypatch
):
    first = grid(tiny_llama, contrast, tmp_path)
    pd.testing.assert_frame_equal(first.table, undisturbed)
    monkeypatch.setattr(EVALUATE, "perform", lambda *a, **k: pytest.fail("measured again"))
    pd.testing.assert_frame_equal(grid(tiny_llama, contrast, tmp_path).table, undisturbed)
    keys = ["task", "intervention", "strength", "seed", "prompt_set", "prompt_id"]
    assert not first.table.duplicated(keys).any()


def counted(monkeypatch):
    done = []
    perform = EVALUATE.perform

    def watched(model, job, shards, **options):
        done.append((job.task.kind, [key for key in job.keys if key not in shards]))
        return perform(model, job, shards, **options)

    monkeypatch.setattr(EVALUATE, "perform", watched)
    return done


def test_a_changed_setting_never_finds_a_stale_shard(tiny_llama, tiny_llama_dir, contrast, tmp_path, monkeypatch):
    grid(tiny_llama, contrast, tmp_path)
    done = counted(monkeypatch)
    n_runs = len(runs_of(tiny_llama)) + 1

    def measured(model=tiny_llama, contrast=contrast, **changes):
        done.clear()
        table = grid(model, contrast, tmp_path, **changes).table
        pd.testing.assert_frame_equal(table, grid(model, contrast, None, **changes).table)
        return sum(len(keys) for _, keys in done[: len(done) // 2 + 1] if keys)

    for changes in ({"max_new_tokens": 4}, {"temperature": 1.0}, {"template": "plain"}, {"refusal_tokens": [7]}):
        assert measured(**changes) >= n_runs, changes
    other = load_model(tiny_llama_dir)
    with torch.no_grad():
        other.blocks[0].mlp.W_out[0, 0] += 1e-3
    assert measured(model=other) >= n_runs
    renamed = [run.named(f"again {run.name}") for run in runs_of(tiny_llama)]
    done.clear()
    again = evaluate(tiny_llama, contrast.positive, renamed, max_new_tokens=5, max_rows=6, folder=tmp_path)
    assert not done  # what is measured does not depend on names
    assert again.table["intervention"].str.startswith("again").sum() == len(renamed) * len(contrast.positive)


def test_a_broken_shard_is_measured_again(tiny_llama, contrast, undisturbed, tmp_path, caplog):
    grid(tiny_llama, contrast, tmp_path)
    shards = sorted((tmp_path / "shards").glob("*.parquet"))
    shards[0].write_bytes(b"half a file")
    shards[1].unlink()
    pd.testing.assert_frame_equal(grid(tiny_llama, contrast, tmp_path).table, undisturbed)
    assert "measured again" in caplog.text


DRIVER = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
from mechsurgery.models import load_model
from mechsurgery import ContrastSet
from pathlib import Path
from evaluation.test_grid import grid

model, contrast, folder = load_model(sys.argv[1]), ContrastSet.load(sys.argv[4]), Path(sys.argv[2])

def child(target):
    pid = os.fork()
    if pid:
        return pid
    try:
        grid(model, contrast, target)
        os._exit(0)
    except BaseException as error:
        print(error, flush=True)
        os._exit(1)

started = time.monotonic()
assert os.waitpid(child(folder / "timing"), 0)[1] == 0
duration = time.monotonic() - started
generator, interrupted = random.Random(0), 0
for _ in range(50):
    pid = child(folder / "killed")
    time.sleep(generator.uniform(0, duration / 12))
    os.kill(pid, signal.SIGKILL)
    interrupted += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
assert os.waitpid(child(folder / "killed"), 0)[1] == 0
together = [child(folder / "shared") for _ in range(2)]
assert all(os.waitpid(pid, 0)[1] == 0 for pid in together)
print(interrupted)
"""


def test_fifty_kills_and_two_processes_lose_and_double_nothing(
    tiny_llama, tiny_llama_dir, contrast, undisturbed, tmp_path, monkeypatch
):
    """Processes are killed at random instants and started again; two others share a folder from the start."""
    contrast.save(tmp_path / "contrast.json")
    tests = str(Path(__file__).parents[1])
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        DRIVER,
        str(tiny_llama_dir),
        str(tmp_path),
        tests,
        str(tmp_path / "contrast.json"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) >= 25  # kills that hit a running sweep
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        monkeypatch.setattr(EVALUATE, "perform", lambda *a, **k: pytest.fail("rows were lost"))
        tables = [grid(tiny_llama, contrast, tmp_path / name).table for name in ("killed", "shared", "timing")]
    finally:
        torch.set_num_threads(threads)
    for table in tables:
        pd.testing.assert_frame_equal(table, tables[-1])
        pd.testing.assert_frame_equal(table, undisturbed, rtol=1e-3, atol=1e-5)


def test_kl_equals_plain_transformers(tiny_llama, tiny_llama_dir, contrast, undisturbed):
    from transformers import AutoModelForCausalLM

    from mechsurgery.prompts.chat import encode

    plain, ablated = (AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval() for _ in "ab")
    circuit_run = runs_of(tiny_llama)[1]
    assert circuit_run.strength == 1
    indices = range(0, tiny_llama.cfg.d_mlp, 9)
    with torch.no_grad():
        for layer in ablated.model.layers:
            layer.mlp.down_proj.weight[:, list(indices)] = 0
    prompts = contrast.negative.take(6)
    table = undisturbed[undisturbed["prompt_set"] == "negative"]
    answers = table[(table["task"] == "generate") & (table["kind"] == "baseline")]["tokens"].tolist()
    measured = table[(table["task"] == "kl") & (table["intervention"] == "c0") & (table["strength"] == 1)][
        "kl"
    ].tolist()
    for ids, answer, ours in zip(encode(tiny_llama.tokenizer, prompts), answers, measured):
        with torch.no_grad():
            p, q = (
                m(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 :].log_softmax(-1) for m in (plain, ablated)
            )
        assert ours == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3, abs=1e-6)
    base = table[(table["task"] == "kl") & (table["kind"] == "baseline")]["kl"]
    assert base.max() < 1e-6 < min(measured)


def test_rows_of_a_grid_equal_one_run_per_intervention_and_prompt(tiny_llama, contrast, undisturbed):
    table = undisturbed[(undisturbed["task"] == "generate") & (undisturbed["prompt_set"] == "negative")]
    for run in runs_of(tiny_llama)[::4]:
        for prompt in contrast.negative.take(6).prompts[:2]:
            alone = evaluate(tiny_llama, PromptSet("one", (prompt,)), [run], max_new_tokens=5, max_rows=1).table
            mine = table[
                (table["intervention"] == run.name)
                & (table["strength"] == run.strength)
                & (table["prompt_id"] == prompt.id)
            ]
            assert alone[alone["kind"] != "baseline"]["tokens"].tolist() == mine["tokens"].tolist()
