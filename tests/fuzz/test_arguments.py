"""Malformed arguments to every public function: an error of our own, nothing written, the model as it was."""

import random
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from support import fuzzed_arguments
from support.checkpoints import save

from mechsurgery import load_model
from mechsurgery.cli import main
from mechsurgery.errors import MechsurgeryError

from .conftest import times

#: What trains for seconds where its arguments happen to be valid.
SLOW = ("calibrated", "contrastive_delta", "contrastive_finetunes", "finetune", "minimal_circuit", "bake")
#: A function of the user's own may raise what it likes.
CALLBACKS = ("PromptSet.where", "trained")


class World(NamedTuple):
    """A model, its weights, what can be called, valid arguments, values that are none."""

    model: Any
    weights: dict[str, torch.Tensor]
    targets: dict[str, fuzzed_arguments.Target]
    known: dict[str, Any]
    values: list[Any]

    def __repr__(self):
        """Short: a failing case is shown with it."""
        return "the world"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def world(directory):
    """What every case is tried on."""
    model = load_model(directory)
    known = fuzzed_arguments.things(model)
    own = {name: t for name, t in fuzzed_arguments.targets(model).items() if name not in SLOW + CALLBACKS}
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    return World(model, weights, own, known, fuzzed_arguments.odd(known))


@times(2000)
@given(place=st.integers(0, 10_000), seed=st.integers(0, 2**32 - 1))
@example(place=0, seed=0)
def test_a_malformed_argument_is_an_error_of_our_own(place, seed, world, tmp_path_factory):
    model, weights, targets, known, values = world
    name = sorted(targets)[place % len(targets)]
    given, named, wrong = fuzzed_arguments.arguments(targets[name], known, values, random.Random(f"{name} {seed}"))
    empty = tmp_path_factory.getbasetemp() / "here"
    empty.mkdir(exist_ok=True)
    refused = None
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(empty)
        warnings.simplefilter("ignore")  # of what is allowed, though odd
        try:
            targets[name].call(*given, **named)
        except MechsurgeryError as error:
            refused = str(error)
            refused.encode()  # it can be shown
        except BeartypeCallHintViolation:
            pass  # the type checker of the tests, which users do not have
    left = list(empty.iterdir())
    for path in left:
        path.unlink() if path.is_file() else fuzzed_arguments.remove(path)
    assert not (refused and left), f"{name} refused {wrong} and wrote {left}"
    assert all(torch.equal(weights[key], now) for key, now in model.state_dict().items()), f"{name} changed weights"
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values()), f"{name} left hooks"


ODD = ["-1", "0", "nan", "inf", "-inf", "1e400", "9" * 400, "", " ", "a\u202eb", "x" * 5000, "../../etc", "None", "[]"]
COMMANDS = {
    "locate {model} --contrast {} --fraction 0.01": 1,
    "locate {model} --contrast organism/refusal --fraction {}": 1,
    "locate {model} --contrast organism/refusal -k {}": 1,
    "locate {model} --contrast organism/refusal --skip-layer {}": 1,
    "locate {model} --positive {} --negative {}": 2,
    "locate {} --contrast organism/refusal": 1,
    "evaluate {model} --circuit {}": 1,
    "evaluate {model} --circuit {circuit} -n {}": 1,
    "evaluate {model} --circuit {circuit} -n 2 --max-new-tokens {}": 1,
    "evaluate {model} --circuit {circuit} -n 2 --controls 0 --m {}": 1,
    "evaluate {model} --circuit {circuit} --prompts {} --controls 0": 1,
    "compare {model} {model} --contrast {}": 1,
    "compare {model} {model} --contrast organism/refusal --fraction {}": 1,
    "figures {}": 1,
    "inspect {model} {} --save out.html": 1,
    "monitor {} {} --direction {}": 3,
    "study cna --model {}": 1,
    "study weights --seed {}": 1,
    "chat {model} --circuit {}": 1,
    "chat {model} --steer {}": 1,
}


@times(60)
@given(command=st.sampled_from(sorted(COMMANDS)), words=st.lists(st.sampled_from(ODD), min_size=3, max_size=3))
def test_a_malformed_option_is_said_in_a_sentence(command, words, world, directory, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    circuit = world.known["circuit"].save(folder / "c.safetensors")
    fill = iter(words)
    known = {"{model}": str(directory), "{circuit}": str(circuit), "{}": None}
    given = [next(fill) if word == "{}" else known.get(word, word) for word in command.split()]
    out = folder / "out"
    if given[0] not in ("figures", "chat", "inspect"):
        given += ["--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        told = CliRunner().invoke(main, given, input="")
    assert told.exception is None or isinstance(told.exception, SystemExit), (given, told.exception)
