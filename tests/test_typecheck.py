"""The type checker that all tests run under: what it refuses, by whichever way it checks a function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from support.typecheck import as_needed, checked
from torch import Tensor

if TYPE_CHECKING:
    from somewhere import Thing

check = as_needed(typechecker=checked)
REFUSED = (jaxtyping.TypeCheckError, BeartypeCallHintViolation)


@check
def pair(a: Float[Tensor, " n"], b: Float[Tensor, " n"], by: float = 1.0) -> Float[Tensor, " n"]:
    return a + b if by else torch.cat([a, b])


@check
def named(words: list[str], n: int) -> str:
    return words[0] if n else n


@check
def of_a_thing(thing: Thing, n: int) -> int:
    return n


@check
def steps(x: Float[Tensor, "n n"]) -> Iterator[int]:
    yield len(x)


@check
@dataclass(frozen=True)
class Plain:
    n: int
    name: str = ""


@check
@dataclass(frozen=True)
class Sized:
    a: Float[Tensor, " n"]
    b: Float[Tensor, " n"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: pair(torch.zeros(3), torch.zeros(2)),
        lambda: pair(torch.zeros(3), b=torch.zeros(3).long()),
        lambda: pair(torch.zeros(3), torch.zeros(3), "1"),
        lambda: pair(torch.zeros(3), torch.zeros(3), 0.0),  # gives six
        lambda: named(["a"], "1"),
        lambda: named([1], 1),
        lambda: named(["a"], 0),  # gives an int
        lambda: of_a_thing(None, "1"),
        lambda: next(steps(torch.zeros(2, 3))),
        lambda: Plain("1"),
        lambda: Plain(1, name=2),
        lambda: Sized(torch.zeros(3), torch.zeros(2)),
    ],
)
def test_a_wrong_type_is_refused(wrong):
    with pytest.raises(REFUSED):
        wrong()


def test_sizes_have_their_names_within_one_call():
    """Also where one is made while another runs, and after one has failed."""
    for n in (3, 2, 4):
        assert len(pair(torch.zeros(n), torch.zeros(n), 1)) == n
        assert len(Sized(torch.zeros(n), pair(torch.zeros(n), torch.zeros(n))).b) == n
        with pytest.raises(REFUSED):
            pair(torch.zeros(n), torch.zeros(n + 1))
    assert list(steps(torch.zeros(2, 2))) == [2]
    assert of_a_thing("anything", 1) == 1
    assert Plain(True).n
    assert isinstance(pair.__annotations__["a"], str)  # as it was written
