"""On two local workers of Ray: the table, the scores and the fine-tunes of one process, also when workers are killed.

Ray takes long to start, so these tests run by themselves (`make test-ray`) and share one start.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from support.changes import evaluation

from mechsurgery.attribution import contrast_statistics
from mechsurgery.errors import InputError, MismatchError
from mechsurgery.intervention import Custom, Edit, Intervention
from mechsurgery.models import sites
from mechsurgery.prompts import Examples
from mechsurgery.training import LoRA, Recipe, Training, finetune, finetune_each

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def processes(session=None):
    """{process: (its parent, its session, its name)} of all, or of one session."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, parent, _, own = rest.split()[:4]
        if state != "Z" and session in (None, int(own)):
            found[int(folder.name)] = int(parent), int(own), name
    return found


def copies():
    """The processes of our own workers."""
    every = processes()

    def ours(process):
        while process in every:
            if process == os.getpid():
                return True
            process = every[process][0]
        return False

    return [process for process, (_, _, name) in every.items() if name.startswith("ray::Copy") and ours(process)]


class Killing:
    """Workers all of which are killed with −9 once, after the first result."""

    def __init__(self, workers):
        self.workers, self.killed = workers, []

    def each(self, model, act, items, *, shared, done):
        def then(place, result):
            done(place, result)
            if not self.killed:
                self.killed = copies()
                for process in self.killed:
                    os.kill(process, signal.SIGKILL)

        self.workers.each(model, act, items, shared=shared, done=then)


@pytest.fixture(scope="module")
def workers():
    from mechsurgery.adapters.many import Workers

    with Workers(2) as two:
        try:
            two._begin()
        except InputError as error:
            pytest.skip(f"{error}")  # every core is busy with something else: nothing is known, nothing is wrong
        yield two
    end = time.time() + 30
    while copies() and time.time() < end:
        time.sleep(0.2)
    assert not copies()


@pytest.fixture(scope="module")
def grid(tiny_llama, contrast):
    return evaluation(tiny_llama, contrast, 7, 3, 4, controls=2)


def test_two_workers_give_the_table_of_one_process_also_when_killed_in_the_middle(workers, grid, tmp_path, caplog):
    alone = grid()
    pd.testing.assert_frame_equal(grid(workers=workers), alone)
    assert len(copies()) == 2
    killing = Killing(workers)
    pd.testing.assert_frame_equal(grid(workers=killing, folder=tmp_path), alone)
    assert len(killing.killed) == 2
    assert not set(killing.killed) & set(copies())
    assert "a worker died at work on item" in caplog.text
    pd.testing.assert_frame_equal(grid(folder=tmp_path), alone)


def test_two_workers_give_the_scores_of_one_process(workers, tiny_llama, contrast):
    alone = contrast_statistics(tiny_llama, contrast, max_rows=3)
    spread = [
        contrast_statistics(tiny_llama, contrast, max_rows=3, workers=each) for each in (workers, Killing(workers))
    ]
    for side in ("positive", "negative"):
        one, again, single = (getattr(each, side) for each in (*spread, alone))
        assert one.n == again.n == single.n
        for site in one.n:
            assert torch.equal(one.mean[site], again.mean[site])
            assert torch.equal(one.m2[site], again.m2[site])
            torch.testing.assert_close(one.mean[site], single.mean[site], rtol=1e-5, atol=1e-7)


def test_two_workers_train_what_one_process_trains(workers, tiny_llama):
    texts = [list(range(5 + i, 12 + i)) for i in range(6)]
    data = Examples(tuple(tuple(t[:4]) for t in texts), tuple(tuple(t[4:]) for t in texts), tuple(map(str, range(6))))
    asked = [
        Training(data, where, Recipe(steps=4, batch=2), seed=seed) for where in (LoRA(2), "bias") for seed in (0, 1)
    ]
    alone = [finetune(tiny_llama, one.data, one.where, recipe=one.recipe, seed=one.seed) for one in asked]
    assert [one.digest for one in finetune_each(tiny_llama, asked, workers=workers)] == [one.digest for one in alone]


def test_functions_of_the_users_own_travel_or_are_refused(workers, tiny_llama, grid):
    site, width = sites.residual_sites(tiny_llama, [1])[0], tiny_llama.cfg.d_model

    def made(change, key):
        return Intervention("own", (Edit(site, Custom(change, key), width),), kind="own")

    # By value, as those of a program or a notebook are: workers cannot import this module.
    change = eval("lambda activation, strength: activation * (1 - strength / 2)", {"__name__": "__main__"})
    pd.testing.assert_frame_equal(grid(made(change, "half"), workers=workers), grid(made(change, "half")))
    own = {"lock": threading.Lock(), "__name__": "__main__"}
    held = eval("lambda activation, strength: activation * (1 + 0 * lock.locked())", own)
    with pytest.raises(InputError, match="cannot travel to another process.*lock"):
        grid(made(held, "lock"), workers=workers)


def test_errors_come_through_as_themselves(workers, tiny_llama, tiny_checkpoint, contrast):
    from mechsurgery.adapters.many import Workers

    elsewhere = Workers(1, source=tiny_checkpoint("gpt2"))
    try:
        with pytest.raises(MismatchError, match="differs from the model given in its .*weights.*source="):
            contrast_statistics(tiny_llama, contrast, workers=elsewhere)
        with pytest.raises(InputError, match="500 GPUs, and Ray has"):
            contrast_statistics(tiny_llama, contrast, workers=Workers(1, gpus=500))
    finally:
        elsewhere.close()
    contrast_statistics(tiny_llama, contrast, workers=workers)  # which are as they were


PROGRAM = """
import os, sys, time
from mechsurgery import load_model
from mechsurgery.adapters.many import Workers

def stuck(model, shared, item):
    if item:
        time.sleep(600)

if __name__ == "__main__":
    model = load_model(sys.argv[1])
    with Workers(2) as workers:
        workers.each(model, stuck, [0, 1, 1], shared=None, done=lambda place, result: print("at work", flush=True))
"""


def test_an_interrupt_leaves_no_process(workers, tiny_llama_dir, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, str(program), str(tiny_llama_dir)]
    # As in a terminal: a session of its own, all of which gets Ctrl-C.
    ended = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert ended.stdout.readline() == "at work\n"
    assert any(name.startswith("ray::Copy") for _, _, name in processes(ended.pid).values())
    os.killpg(ended.pid, signal.SIGINT)
    said = ended.communicate(timeout=60)[1]
    assert "KeyboardInterrupt" in said
    end = time.time() + 30
    while processes(ended.pid) and time.time() < end:
        time.sleep(0.2)
    assert not processes(ended.pid)
