"""One thread at a time changes a model, and changes are taken back in the opposite order."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mechsurgery import Generation, WeightDelta, ablate, applied, evaluate, finetune, locate, shift_weights
from mechsurgery.errors import BusyError, InputError
from mechsurgery.models import load_model, sites
from mechsurgery.models.with_hooks import with_hooks
from mechsurgery.prompts import Examples, encode
from mechsurgery.training import LoRA, Recipe
from mechsurgery.training.trainable import trainable

WAIT = 30


@pytest.fixture(scope="module")
def models(tiny_llama_dir):
    return load_model(tiny_llama_dir), load_model(tiny_llama_dir)


@pytest.fixture(scope="module")
def model(models):
    return models[0]


@pytest.fixture(scope="module")
def runs(model, contrast):
    ids = tuple(map(tuple, encode(model.tokenizer, contrast.positive.take(2))))
    recipe = Recipe(steps=2, batch=2)
    deltas = [finetune(model, Examples(ids, ((5, 6), (7,))), "mlp", recipe=recipe, seed=seed) for seed in (0, 1)]
    scaled = ablate(locate(model, contrast, k=6))
    # Without facts, so that one may be put on top of the other.
    return [scaled + shift_weights(WeightDelta(delta.parts, delta.name)) for delta in deltas]


@pytest.fixture
def unchanged(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    yield
    assert hooks_on(model) == []
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def hooks_on(model):
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks or point._forward_hooks]


def in_thread(work):
    """What `work()` gives or raises in a thread of its own."""
    found = []

    def run():
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def finished(thread, found):
    thread.join(WAIT)
    assert not thread.is_alive()
    return found[0]


def test_leaving_the_outer_context_first_is_an_error_and_all_is_right_in_the_end(model, runs, unchanged):
    ids = torch.tensor([[1, 2, 3]])
    outer, inner = (applied(model, run) for run in runs)
    outer.__enter__()
    inner.__enter__()
    both = model(ids)
    with pytest.raises(BusyError, match="opposite order"):
        outer.__exit__(None, None, None)
    assert torch.equal(model(ids), both)  # nothing is taken from under the one that is still there
    inner.__exit__(None, None, None)
    assert hooks_on(model) == []


def test_contexts_in_generators_that_are_closed_late_leave_nothing(model, runs, unchanged):
    def held(run):
        with applied(model, run):
            yield

    first, second = held(runs[0]), held(runs[1])
    next(first)
    next(second)
    del first
    gc.collect()
    assert hooks_on(model)
    second.close()


def test_a_context_that_is_dropped_is_left(model, runs, unchanged):
    applied(model, runs[0]).__enter__()
    gc.collect()


def test_a_context_is_entered_once_at_a_time(model, runs, unchanged):
    context = applied(model, runs[0])
    with context as given:
        assert given is model
    with context:
        assert hooks_on(model)
    with pytest.raises(BusyError, match="entered already"), context:
        context.__enter__()


def test_what_was_put_on_within_stays(model, runs):
    with applied(model, runs[0]):
        model.add_hook("hook_embed", lambda x, hook: x)
    assert hooks_on(model) == ["hook_embed"]
    model.reset_hooks()


def test_hooks_that_are_on_can_be_seen_and_reset(model, runs, unchanged):
    with applied(model, runs[0]):
        assert set(model.list_hooks()) == set(hooks_on(model)) != set()
        model.reset_hooks()
        assert hooks_on(model) == []


def test_two_threads_get_the_tables_of_one(model, runs, contrast, unchanged):
    prompts, sizes = contrast.positive.take(2), Generation(max_new_tokens=2)
    works = [lambda run=run: evaluate(model, prompts, [run], generation=sizes).table.to_csv() for run in runs]
    expected = [work() for work in works]
    assert expected[0] != expected[1]
    for _ in range(3):
        assert [finished(*started) for started in [in_thread(work) for work in works]] == expected


def test_a_second_thread_waits_until_a_context_is_left(model, runs, contrast, unchanged):
    ids = torch.tensor([[1, 2, 3]])

    def read():
        with with_hooks(model, []):
            return model(ids)

    plain = read()
    with applied(model, runs[0]):
        started = in_thread(read)
        started[0].join(0.3)
        assert started[0].is_alive()
        assert not torch.equal(model(ids), plain)
    assert torch.equal(finished(*started), plain)


def test_waiting_for_each_other_is_an_error(models, unchanged):
    barrier = threading.Barrier(2)

    def hold(first, second):
        with with_hooks(first, []):
            barrier.wait(WAIT)
            with with_hooks(second, []):
                return "done"

    started = [in_thread(lambda pair=pair: hold(*pair)) for pair in (models, models[::-1])]
    found = [finished(*each) for each in started]
    assert "done" in found
    assert sum(isinstance(each, BusyError) for each in found) == 1


def test_waiting_for_a_thread_that_waits_for_the_model_is_an_error(model, runs, unchanged):
    def read():
        with with_hooks(model, []):
            return "done"

    with applied(model, runs[0]):
        thread, found = in_thread(read)
        thread.join()
        assert isinstance(found[0], BusyError)
        with ThreadPoolExecutor(1) as pool, pytest.raises(BusyError):
            pool.submit(read).result()


def test_a_thread_that_ended_holds_nothing_back(model, runs, unchanged):
    kept = []

    def enter():
        kept.append(applied(model, runs[0]))
        kept[0].__enter__()

    finished(*in_thread(lambda: enter()))
    assert hooks_on(model)
    with with_hooks(model, []):
        assert hooks_on(model) == []
    kept[0].__exit__(None, None, None)


def test_a_fine_tune_within_another_is_on_top_of_it(model, unchanged):
    ids = torch.tensor([[1, 2, 3]])
    plain, prints = model(ids), {sites.fingerprint(model)}
    with trainable(model, LoRA(2)) as outer:
        with torch.no_grad():
            for name, parameter in outer.parameters.items():
                parameter += 0.1 * name.endswith("right")
        once = model(ids)
        prints.add(sites.fingerprint(model))
        with trainable(model, LoRA(2), seed=1) as inner:
            with torch.no_grad():
                for parameter in inner.parameters.values():
                    parameter += 0.1
            assert not torch.equal(model(ids), once)
            prints.add(sites.fingerprint(model))
        assert torch.equal(model(ids), once)
        with outer.off():
            assert torch.equal(model(ids), plain)
    assert not torch.equal(once, plain)
    assert len(prints) == 3


def test_threads_load_one_after_the_other(tiny_llama_dir, model):
    started = [in_thread(lambda: sites.fingerprint(load_model(tiny_llama_dir))) for _ in range(3)]
    assert {finished(*each) for each in started} == {sites.fingerprint(model)}


def test_what_is_no_model_is_refused(contrast):
    with pytest.raises(InputError, match="give a model of TransformerLens"):
        evaluate("gpt2", contrast.positive)
