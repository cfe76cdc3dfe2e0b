"""What a command is given as its circuit: a saved circuit, saved scores, or the folder of a study."""

from __future__ import annotations

from pathlib import Path

from ..checks import check_arguments
from ..errors import InputError, LoadError, PromptError, listed
from ..prompts import ContrastSet, load_contrast
from ..units import Circuit, UnitScores

#: The share of units taken where a file holds scores of all of them: the CNA paper's 0.1 %.
FRACTION = 0.001


def read_circuit(path: str | Path) -> Circuit:
    """The circuit in a file that `Circuit.save` or a study wrote, or in a study's folder that holds just one.

    Of saved `UnitScores` the top 0.1 % are taken. Raises `LoadError` for other files and `InputError` for a folder of
    several circuits or none, naming what is there.
    """
    where = Path(path)
    if where.is_dir():
        folder = where / "circuits" if (where / "circuits").is_dir() else where
        there = [file for file in sorted(folder.glob("*.safetensors")) if _circuit_or_none(file) is not None]
        if len(there) != 1:
            found = listed([str(file) for file in there], 20) if there else "none (*.safetensors)"
            raise InputError(f"{str(where)!r} is a folder; give one of the circuits in it: {found}")
        where = there[0]
    try:
        return Circuit.load(where)
    except LoadError as error:
        scored = _scores_or_none(where)
        if scored is None:
            raise error
        return scored.top(fraction=FRACTION)


def contrast_of(circuit: Circuit) -> ContrastSet:
    """The contrast that a circuit was located with, where it is one that has a name. Raises `PromptError` if not."""
    name = circuit.info.get("contrast")
    try:
        return load_contrast(str(name))
    except PromptError as error:
        raise PromptError(
            f"the circuit's file names no contrast to look at it with (it says {name!r}); give --contrast NAME, or "
            "both --positive FILE and --negative FILE"
        ) from error


def _circuit_or_none(path: Path) -> Circuit | None:
    try:
        return Circuit.load(path)
    except LoadError:
        return None


def _scores_or_none(path: Path) -> UnitScores | None:
    try:
        return UnitScores.load(path)
    except LoadError:
        return None


check_arguments(__name__)
