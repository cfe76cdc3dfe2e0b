"""A sweep that is killed, repeated, shared or changed gives the rows of an undisturbed one, each once."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from mechsurgery import Circuit, Direction, Generation, PromptSet, Template, ablate, evaluate, shift_weights, steer
from mechsurgery.deltas import Dense, WeightDelta
from mechsurgery.evaluation import jobs
from mechsurgery.models import load_model, sites
from mechsurgery.prompts import Prompt

SETTINGS = {"max_new_tokens": 4, "max_rows": 6}
N_POSITIVE = 6


def runs_of(model, n=2):
    widths = sites.neuron_widths(model)
    circuits = [
        Circuit.from_indices({site: range(i, widths[site], 9) for site in widths}, widths, name=f"c{i}")
        for i in range(n)
    ]
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(model.cfg.d_model, generator=generator)
    steering = steer(Direction({sites.residual_sites(model, [1])[0]: vector}, "steering"))
    weight = model.blocks[0].mlp.W_out
    drift = WeightDelta({"blocks.0.mlp.W_out": Dense(0.3 * torch.randn(weight.shape, generator=generator))}, "drift")
    strengths = (1, -0.5)
    return [run for each in (*map(ablate, circuits), steering, shift_weights(drift)) for run in each.at(strengths)]


def grid(model, contrast, folder, **changes):
    questions = PromptSet(
        "questions",
        tuple(
            Prompt(f"q{i}", f"Which is right, {i}? A) one B) two", choices=("A", "B"), answer=i % 2) for i in range(3)
        ),
    )
    sets = {
        "positive": contrast.positive.take(N_POSITIVE),
        "negative": contrast.negative.take(4),
        "questions": questions,
    }
    settings = Generation(**{**SETTINGS, **changes})
    return evaluate(model, sets, runs_of(model), kl_on=["negative"], generation=settings, folder=folder)


@pytest.fixture(scope="module")
def undisturbed(tiny_llama, contrast):
    return grid(tiny_llama, contrast, None).table


@pytest.fixture
def measured(monkeypatch):
    """The (kind, interventions) of every job that is measured from here on."""
    done = []
    perform = jobs.perform

    def watched(model, job, settings, **options):
        done.append((job.task.kind, len(job.runs)))
        return perform(model, job, settings, **options)

    monkeypatch.setattr(jobs, "perform", watched)
    return done


def test_a_folder_changes_no_row_and_a_second_run_measures_nothing(
    tiny_llama, contrast, undisturbed, tmp_path, measured
):
    first = grid(tiny_llama, contrast, tmp_path).table
    pd.testing.assert_frame_equal(first, undisturbed)
    assert measured
    measured.clear()
    pd.testing.assert_frame_equal(grid(tiny_llama, contrast, tmp_path).table, undisturbed)
    assert not measured
    assert not first.duplicated(["intervention", "strength", "seed", "prompt_set", "prompt_id", "metric"]).any()


def test_a_changed_setting_never_finds_stale_rows(tiny_llama, tiny_llama_dir, contrast, tmp_path, measured):
    whole = {"max_rows": 72}  # few batches
    grid(tiny_llama, contrast, tmp_path, **whole)
    n_runs = len(runs_of(tiny_llama)) + 1

    def count(model=tiny_llama, **changes):
        measured.clear()
        table = grid(model, contrast, tmp_path, **whole, **changes).table
        n = sum(runs for _, runs in measured)
        pd.testing.assert_frame_equal(table, grid(model, contrast, None, **whole, **changes).table)
        return n

    changes = ({"max_new_tokens": 3}, {"temperature": 1.0}, {"template": "plain"}, {"refusal_tokens": (7,)})
    for change in changes:
        assert count(**change) >= n_runs, change
    assert count(template=Template(system="Answer in rhyme.")) >= n_runs
    other = load_model(tiny_llama_dir)
    with torch.no_grad():
        other.blocks[0].mlp.W_out[0, 0] += 1e-3
    assert count(other) >= n_runs
    renamed = [run.named(f"again {run.name}") for run in runs_of(tiny_llama)]
    measured.clear()
    settings = Generation(**{**SETTINGS, **whole})
    again = evaluate(tiny_llama, contrast.positive.take(N_POSITIVE), renamed, generation=settings, folder=tmp_path)
    assert not measured  # what is measured does not depend on names
    assert again.table["intervention"].str.startswith("again").any()


def test_a_run_under_another_date_is_measured_afresh_and_never_mixed(tiny_checkpoint, contrast, tmp_path, measured):
    """Llama-3.2's chat template writes today's date: yesterday's rows answer other prompts."""
    model = load_model(tiny_checkpoint("llama"))
    written = model.tokenizer.chat_template
    model.tokenizer.chat_template = "{{ 'Today is ' ~ date_string ~ '. ' }}" + written
    days = [Template(arguments={"date_string": day}) for day in ("20 Nov 2026", "21 Nov 2026")]
    options = {"generation": Generation(**SETTINGS, template=days[0])}
    runs = runs_of(model)[:2]
    evaluate(model, contrast.positive, runs, folder=tmp_path, **options)
    before = sum(n for _, n in measured)
    measured.clear()
    later = {"generation": Generation(**SETTINGS, template=days[1])}
    continued = evaluate(model, contrast.positive, runs, folder=tmp_path, **later)
    assert sum(n for _, n in measured) == before
    pd.testing.assert_frame_equal(continued.table, evaluate(model, contrast.positive, runs, **later).table)
    assert "21 Nov 2026" in continued.info["prompts"]["positive"]["rendered"]["text"]


def test_broken_rows_are_measured_again(tiny_llama, contrast, undisturbed, tmp_path, caplog):
    grid(tiny_llama, contrast, tmp_path)
    shards = sorted((tmp_path / "shards").glob("*.parquet"))
    shards[0].write_bytes(b"half a file")
    shards[1].unlink()
    pd.testing.assert_frame_equal(grid(tiny_llama, contrast, tmp_path).table, undisturbed)
    assert "measured again" in caplog.text


def test_an_interrupt_leaves_the_weights_and_keeps_what_was_measured(
    tiny_llama, contrast, undisturbed, tmp_path, monkeypatch
):
    before = {name: p.detach().clone() for name, p in tiny_llama.named_parameters()}
    perform, left = jobs.perform, [8]

    def interrupted(model, job, settings, **options):
        left[0] -= 1
        if left[0] < 0 and job.runs[0].weights_key is not None:
            raise KeyboardInterrupt
        return perform(model, job, settings, **options)

    monkeypatch.setattr(jobs, "perform", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid(tiny_llama, contrast, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in tiny_llama.named_parameters())
    assert len(list((tmp_path / "shards").glob("*.parquet"))) >= 8
    monkeypatch.setattr(jobs, "perform", perform)
    pd.testing.assert_frame_equal(grid(tiny_llama, contrast, tmp_path).table, undisturbed)


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
for _ in range(30):
    pid = child(folder / "killed")
    time.sleep(generator.uniform(0, duration / 8))
    os.kill(pid, signal.SIGKILL)
    interrupted += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
assert os.waitpid(child(folder / "killed"), 0)[1] == 0
together = [child(folder / "shared") for _ in range(2)]
assert all(os.waitpid(pid, 0)[1] == 0 for pid in together)
print(interrupted)
"""


def test_thirty_kills_and_two_processes_lose_and_double_nothing(
    tiny_llama, tiny_llama_dir, contrast, undisturbed, tmp_path, measured
):
    """Processes are killed at random instants and started again; two others share a folder from the start."""
    contrast.save(tmp_path / "contrast.json")
    arguments = [str(tiny_llama_dir), str(tmp_path), str(Path(__file__).parents[1]), str(tmp_path / "contrast.json")]
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) >= 15  # kills that hit a running sweep
    tables = [grid(tiny_llama, contrast, tmp_path / name).table for name in ("killed", "shared", "timing")]
    assert not measured  # nothing was lost
    for table in tables:
        pd.testing.assert_frame_equal(table, tables[-1])
        pd.testing.assert_frame_equal(table, undisturbed, rtol=1e-3, atol=1e-5)


def test_rows_of_a_grid_equal_one_run_per_intervention_and_prompt(tiny_llama, contrast, undisturbed):
    table = undisturbed[(undisturbed["metric"] == "tokens") & (undisturbed["prompt_set"] == "negative")]
    for run in runs_of(tiny_llama)[::3]:
        for prompt in contrast.negative.take(4).prompts[:2]:
            settings = Generation(**{**SETTINGS, "max_rows": 1})
            alone = evaluate(tiny_llama, PromptSet("one", (prompt,)), [run], generation=settings).table
            mine = table[
                (table["intervention"] == run.name)
                & (table["strength"] == run.strength)
                & (table["prompt_id"] == prompt.id)
            ]
            alone = alone[(alone["kind"] != "baseline") & (alone["metric"] == "tokens")]
            assert alone["tokens"].tolist() == mine["tokens"].tolist()
