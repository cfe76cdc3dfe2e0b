"""Work that is cut up, handed out and put together again: what comes of it depends on none of that. Without Ray."""

import random
from itertools import count

import pandas as pd
import pytest
import torch
from support.changes import evaluation
from support.workers import Shuffled

from mechsurgery import locate
from mechsurgery.adapters.handing_out import Came, hand_out
from mechsurgery.adapters.many import Workers, loaded
from mechsurgery.attribution import contrast_statistics
from mechsurgery.errors import ActivationError, InputError, MechsurgeryError
from mechsurgery.models import load_model
from mechsurgery.models.workers import InOrder
from mechsurgery.prompts import Examples
from mechsurgery.training import LoRA, Recipe, Training, finetune, finetune_each


class Unreliable:
    """A pool of imagined workers: any of them may die at anything it does, and what ends first is chance."""

    def __init__(self, seed=0, deaths=0.0, deadly=(), raising=None, never=0):
        self.random, self.deaths, self.deadly, self.raising, self.never = (
            random.Random(seed),
            deaths,
            deadly,
            raising,
            never,
        )
        self.names, self.tickets, self.doing, self.alive, self.most = count(), count(), {}, set(), 0

    def begin(self):
        worker = next(self.names)
        self.alive.add(worker)
        self.most = max(self.most, len(self.alive))
        return worker, self._ticket(worker, None)

    def give(self, worker, place):
        assert worker in self.alive
        return self._ticket(worker, place)

    def _ticket(self, worker, place):
        ticket = next(self.tickets)
        self.doing[ticket] = worker, place
        return ticket

    def wait(self, tickets):
        able = [
            ticket for ticket in tickets if self.doing[ticket][1] is not None or self.doing[ticket][0] >= self.never
        ]
        ticket = self.random.choice(sorted(able))
        _, place = self.doing.pop(ticket)
        if place is not None and place == self.raising:
            raise ActivationError(f"item {place}")
        if place in self.deadly or self.random.random() < self.deaths:
            return Came(ticket, died="it was killed")
        return Came(ticket, value=None if place is None else place * place)

    def rest(self, worker):
        self.alive.remove(worker)

    end = rest


@pytest.mark.parametrize("seed", range(200))
def test_every_item_is_done_once_whoever_dies(seed):
    n_workers, n_items = 1 + seed % 5, (seed * 7) % 23
    pool, found = Unreliable(seed, deaths=0.3 * (seed % 3 > 0)), []
    hand_out(pool, n_workers, n_items, lambda place, value: found.append((place, value)), retries=50)
    assert sorted(found) == [(place, place**2) for place in range(n_items)]
    assert pool.most <= n_workers
    assert not pool.alive


def test_what_always_kills_its_worker_ends_with_one_error_and_no_worker_left():
    pool, found = Unreliable(deadly=(3,)), []
    with pytest.raises(MechsurgeryError, match="3 workers died, each at work on item 3.*it was killed.*memory"):
        hand_out(pool, 2, 8, lambda place, value: found.append(place), retries=2)
    assert not pool.alive
    pool = Unreliable(deaths=1.0)
    with pytest.raises(MechsurgeryError, match="5 workers died, each while it was made ready"):
        hand_out(pool, 2, 8, lambda place, value: found.append(place), retries=2)
    assert not pool.alive


def test_an_error_or_an_interrupt_comes_through_as_itself_and_leaves_no_worker():
    pool = Unreliable(raising=5)
    with pytest.raises(ActivationError, match="item 5"):
        hand_out(pool, 3, 9, lambda place, value: None, retries=2)
    assert not pool.alive

    def interrupted(place, value):
        raise KeyboardInterrupt

    pool = Unreliable()
    with pytest.raises(KeyboardInterrupt):
        hand_out(pool, 3, 9, interrupted, retries=2)
    assert not pool.alive


def test_a_worker_that_never_starts_holds_nothing_up():
    pool, found = Unreliable(never=2), []
    hand_out(pool, 3, 6, lambda place, value: found.append(place), retries=2)
    assert sorted(found) == list(range(6))
    assert not pool.alive


def test_results_are_handed_on_in_order():
    found = []
    done = InOrder(lambda place, value: found.append(place))
    for place in random.Random(1).sample(range(20), 20):
        done(place, None)
    assert found == list(range(20))


@pytest.mark.parametrize("bridge", [False, True])
def test_workers_load_the_class_of_the_model_that_is_given(bridge, tiny_llama_dir):
    model = load_model(tiny_llama_dir, bridge=bridge)
    assert loaded(Workers(1)._wanted(model)).__class__ is model.__class__


@pytest.fixture(scope="module")
def grid(tiny_llama, contrast):
    return evaluation(tiny_llama, contrast, 4, 2, 3, grades=[], controls=1)


def test_the_table_is_that_of_one_process_and_what_is_there_is_not_measured_again(grid, tmp_path):
    alone = grid()
    workers = Shuffled()
    pd.testing.assert_frame_equal(grid(workers=workers, folder=tmp_path), alone)
    assert workers.n_done > 6
    workers = Shuffled()
    pd.testing.assert_frame_equal(grid(workers=workers, folder=tmp_path), alone)
    assert not workers.n_done


def test_moments_do_not_depend_on_the_order_in_which_batches_end(tiny_llama, contrast):
    how = {"max_rows": 3}
    first, second = (contrast_statistics(tiny_llama, contrast, **how, workers=Shuffled(seed)) for seed in (0, 1))
    alone = contrast_statistics(tiny_llama, contrast, **how)
    for side in ("positive", "negative"):
        one, other, single = (getattr(each, side) for each in (first, second, alone))
        assert one.n == other.n == single.n
        for site in one.n:
            assert torch.equal(one.mean[site], other.mean[site])
            assert torch.equal(one.m2[site], other.m2[site])
            torch.testing.assert_close(one.mean[site], single.mean[site], rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(one.m2[site], single.m2[site], rtol=1e-4, atol=1e-7)
    circuits = [locate(tiny_llama, contrast, k=9, max_rows=3, workers=workers) for workers in (None, Shuffled())]
    assert circuits[0].units.keys() == circuits[1].units.keys()
    assert all(torch.equal(own[0], circuits[1].units[site][0]) for site, own in circuits[0].units.items())


def trainings(contrast):
    texts = [list(range(5 + i, 12 + i)) for i in range(6)]
    data = Examples(tuple(tuple(t[:4]) for t in texts), tuple(tuple(t[4:]) for t in texts), tuple(map(str, range(6))))
    return [
        Training(data, where, Recipe(steps=4, batch=2), seed=seed) for where in (LoRA(2), "bias") for seed in (0, 1)
    ]


def test_a_set_of_fine_tunes_is_trained_once_and_is_what_each_is_alone(tiny_llama, contrast, tmp_path):
    asked = trainings(contrast)
    alone = [finetune(tiny_llama, one.data, one.where, recipe=one.recipe, seed=one.seed) for one in asked]
    workers = Shuffled(3)
    spread = finetune_each(tiny_llama, [*asked, asked[0]], folder=tmp_path, workers=workers)
    assert [one.digest for one in spread] == [one.digest for one in [*alone, alone[0]]]
    assert workers.n_done == 4
    assert len({one.digest for one in alone}) == 4
    again = finetune_each(tiny_llama, asked, folder=tmp_path, workers=workers)
    assert workers.n_done == 4
    assert [one.digest for one in again] == [one.digest for one in finetune_each(tiny_llama, asked)]


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"threads": 0}, {"gpus": -1}, {"retries": -1}, {"n": 1.5}, {"gpus": float("nan")}]
)
def test_workers_that_cannot_be_are_refused(wrong):
    from mechsurgery.adapters.many import Workers

    with pytest.raises(InputError):
        Workers(**wrong)
