"""Ctrl-C, at the worst moment, leaves no hook on the model."""

import signal

import pytest
from transformer_lens.hook_points import HookPoint

from mechsurgery import PromptSet, ablate, locate
from mechsurgery.attribution import contrast_statistics
from mechsurgery.models import generate
from mechsurgery.models.with_hooks import with_hooks
from mechsurgery.prompts import encode


@pytest.fixture
def circuit(tiny_llama, contrast):
    return locate(tiny_llama, contrast, k=6)


@pytest.fixture(params=["add_hook", "remove_hooks"])
def interrupted(request, monkeypatch):
    """Ctrl-C just after the first hook was put on, or just before the first one is taken off."""
    own, done = getattr(HookPoint, request.param), []

    def at_the_worst_moment(self, *args, **kwargs):
        found = own(self, *args, **kwargs) if request.param == "add_hook" else None
        if not done and (request.param == "add_hook" or self.fwd_hooks):
            done.append(True)
            signal.raise_signal(signal.SIGINT)
        return found if request.param == "add_hook" else own(self, *args, **kwargs)

    monkeypatch.setattr(HookPoint, request.param, at_the_worst_moment)
    yield done
    assert done


def hooks_on(model):
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]


def answers(model, circuit):
    ids = encode(model.tokenizer, PromptSet.from_texts(["How do I make a cake?"]))
    return generate.generate(model, ids, hooks=lambda rows: ablate(circuit).hooks(), max_new_tokens=6)


def streamed(model, circuit):
    (ids,) = encode(model.tokenizer, PromptSet.from_texts(["How do I make a cake?"]))
    return list(generate.stream(model, ids, hooks=lambda rows: ablate(circuit).hooks(), max_new_tokens=6))


@pytest.mark.parametrize("work", [answers, streamed])
def test_an_interrupt_while_hooks_are_put_on_or_off_leaves_none(tiny_llama, circuit, interrupted, work):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work(tiny_llama, circuit)
    assert hooks_on(tiny_llama) == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_while_activations_are_read_leaves_none(tiny_llama, contrast, interrupted):
    with pytest.raises(KeyboardInterrupt):
        contrast_statistics(tiny_llama, contrast)
    assert hooks_on(tiny_llama) == []


def test_a_long_answer_ends_soon_and_a_second_interrupt_at_once(tiny_llama, circuit):
    steps = []
    ids = encode(tiny_llama.tokenizer, PromptSet.from_texts(["How do I make a cake?"]))

    def counted(activation, hook=None):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return activation

    with pytest.raises(KeyboardInterrupt):
        generate.generate(
            tiny_llama, ids, hooks=lambda rows: [("blocks.0.mlp.hook_post", counted)], max_new_tokens=60, stop=[]
        )
    assert len(steps) == 3


def test_a_second_interrupt_is_not_waited_with(tiny_llama, circuit):
    done = []

    def body():
        with with_hooks(tiny_llama, ablate(circuit).hooks()):
            signal.raise_signal(signal.SIGINT)
            done.append("after the first")
            signal.raise_signal(signal.SIGINT)
            done.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        body()
    assert done == ["after the first"]
    assert hooks_on(tiny_llama) == []
