"""Ctrl-C at any line leaves a model bit for bit as it was, without hooks, and free for its next use."""

import gc
import random
import signal
import sys

import pytest
import torch

from mechsurgery import (
    CompletionPairs,
    Generation,
    ablate,
    applied,
    bake,
    evaluate,
    finetune,
    gate_gradient,
    locate,
    shift_weights,
)
from mechsurgery.attribution import objectives
from mechsurgery.models import generate, load_model
from mechsurgery.models.positions import _ENDS
from mechsurgery.models.turns import _HELD
from mechsurgery.prompts import Examples, encode
from mechsurgery.training import LoRA, Recipe, Safeguards

#: Random lines at which each piece of work is interrupted; random instants for all together.
LINES, INSTANTS = 6, 30


@pytest.fixture(scope="module")
def model(tiny_llama_dir):
    return load_model(tiny_llama_dir)


@pytest.fixture(scope="module")
def works(model, contrast):
    """{name: a piece of work with the model, which gives the same every time}."""
    circuit, prompts = locate(model, contrast, k=6), contrast.positive.take(2)
    ids = tuple(map(tuple, encode(model.tokenizer, prompts)))
    pairs = CompletionPairs(ids, ((5, 6), (7,)), ((4, 3), (11,)))
    examples, recipe = Examples(ids, ((5, 6), (7,))), Recipe(steps=2, batch=2, validate_every=1)
    delta = finetune(model, examples, "blocks", recipe=recipe)
    sizes = Generation(max_new_tokens=2)
    hooks = ablate(circuit).hooks()

    def tuned(where, **guards):
        made = finetune(model, examples, where, recipe=recipe, safeguards=Safeguards(**guards))
        return [part.dense().tolist() for part in made.parts.values()]

    def under(run):
        with applied(model, run):
            return model(torch.tensor(ids[:1]))[0, -1].tolist()

    def measured():
        runs = [shift_weights(delta), ablate(circuit).at_prompt_end()]
        return evaluate(model, prompts, runs, generation=sizes, kl_on=[prompts.name]).table.to_csv()

    return {
        "applied": lambda: under(ablate(circuit)),
        "weights": lambda: under(ablate(circuit) + shift_weights(delta)),
        "lora": lambda: tuned(LoRA(2)),
        "neurons": lambda: tuned(circuit, neutral=examples),
        "blocks": lambda: tuned("blocks", neutral=examples),
        "evaluate": measured,
        "statistics": lambda: locate(model, contrast, k=4).to_frame().to_csv(),
        "gates": lambda: gate_gradient(model, objectives.from_pairs(pairs), steps=2).top(k=4).to_frame().to_csv(),
        "stream": lambda: list(generate.stream(model, ids[0], hooks=lambda rows: hooks, max_new_tokens=2, stop=[])),
    }


def facts(model):
    """Everything that a use of the model might leave changed, apart from its numbers."""
    modules = [
        (name, type(m), m.training, "forward" in vars(m), len(m._forward_hooks), len(getattr(m, "fwd_hooks", ())))
        for name, m in model.named_modules()
    ]
    weights = [(name, p.requires_grad, p.grad is None, p.data_ptr()) for name, p in model.named_parameters()]
    held = _HELD[model]
    turn = (len(held.stack), held.lock.locked(), held.owner)
    return modules, weights, turn, torch.is_grad_enabled(), _ENDS.get(), model.tokenizer.padding_side


def numbers(model):
    return {name: t.clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}


@pytest.fixture
def unchanged(model):
    """Asserts that the model is as it was."""
    before, values = facts(model), numbers(model)

    def check():
        assert facts(model) == before
        assert all(torch.equal(t, values[name]) for name, t in numbers(model).items())

    return check


class Interrupt:
    """A trace function that raises `KeyboardInterrupt` at the n-th line of the package, or counts its lines."""

    def __init__(self, at=0, files=(".py",)):
        self.at, self.files, self.seen = at, files, 0

    def __call__(self, frame, event, arg):
        file = frame.f_code.co_filename
        return self.line if "/mechsurgery/" in file and file.endswith(self.files) else None

    def line(self, frame, event, arg):
        if event == "line":
            self.seen += 1
            if self.seen == self.at:
                raise KeyboardInterrupt
        return self.line

    def during(self, work):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            work()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


NAMES = ("applied", "weights", "lora", "neurons", "blocks", "evaluate", "statistics", "gates", "stream")


#: Where changes to a model are made and taken back.
CHANGING = ("models/turns.py", "models/with_hooks.py", "training/trainable.py", "intervention/weights.py")


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_at_any_line_leaves_the_model_as_it_was(works, unchanged, name):
    expected = works[name]()
    for files in ((".py",), CHANGING):
        count = Interrupt(files=files)
        assert not count.during(works[name])
        for at in random.Random(name).sample(range(1, count.seen), 2 if name in ("evaluate", "statistics") else LINES):
            assert Interrupt(at, files).during(works[name])
            unchanged()
    assert works[name]() == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one may fall into a destructor
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such timer on this system")
def test_interrupts_at_random_instants_leave_the_model_as_it_was(works, unchanged):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    rng, hits, kept = random.Random(0), 0, []
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(INSTANTS):
            work = works[rng.choice(["applied", "weights", "lora", "blocks", "statistics"])]
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 0.05))
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt as error:
                kept.append(error)  # its traceback keeps frames, and what they hold, alive
                hits += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            unchanged()
    finally:
        signal.signal(signal.SIGALRM, before)
    kept.clear()
    gc.collect()
    unchanged()
    assert hits > INSTANTS // 4


@pytest.fixture
def heard():
    """Ctrl-C as a terminal sends it: a shell that starts the tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_an_interrupt_comes_through_at_once(model, contrast, unchanged):
    steps = []

    def counted(activation, hook=None):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return activation

    handler, ids = signal.getsignal(signal.SIGINT), encode(model.tokenizer, contrast.positive.take(1))
    with pytest.raises(KeyboardInterrupt):
        generate.generate(model, ids, hooks=lambda rows: [("blocks.0.mlp.hook_post", counted)], max_new_tokens=60)
    assert len(steps) == 3
    assert signal.getsignal(signal.SIGINT) is handler
    unchanged()


def test_a_bake_is_done_wholly_or_not_at_all(tiny_llama_dir, contrast):
    own = load_model(tiny_llama_dir)
    run, before = ablate(locate(own, contrast, k=6)), numbers(own)
    with applied(own, run):
        baked = own(torch.tensor([[1, 2, 3]]))
    plain = own(torch.tensor([[1, 2, 3]]))
    at = 1
    while Interrupt(at).during(lambda: bake(own, run)):
        logits = own(torch.tensor([[1, 2, 3]]))
        assert torch.equal(logits, plain) or torch.allclose(logits, baked, atol=1e-5)
        for name, parameter in own.named_parameters():
            parameter.data.copy_(before[name])
        at += 23
    assert at > 200
