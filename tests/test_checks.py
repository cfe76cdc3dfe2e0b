"""What a check cannot see fails further in: in the one tree all the same, but for the user's own code and memory."""

from pathlib import Path

import pandas as pd
import pytest

from mechsurgery import PromptSet, Results
from mechsurgery.attribution import Objective
from mechsurgery.checks import checked
from mechsurgery.errors import InputError, LoadError, MechsurgeryError
from mechsurgery.models.positions import prompts_end
from mechsurgery.prompts.registry import sha256_of
from mechsurgery.safe_text import html_table
from mechsurgery.training.sets import train_one


def test_what_fails_further_in_is_ours_with_its_cause():
    own = checked(pd.DataFrame.from_dict.__func__)
    with pytest.raises(InputError, match=r"from_dict cannot work with what it was given \(") as told:
        own(pd.DataFrame, {"a": [1, 2], "b": [1]})
    assert isinstance(told.value.__cause__, ValueError)
    with pytest.raises(LoadError, match="such"):
        checked(Path.read_bytes)(Path("no/such/file"))


def test_code_of_the_users_own_and_lacking_memory_come_through_as_they_are():
    def fails(prompt):
        return {}["missing"]

    with pytest.raises(KeyError, match="missing") as told:
        PromptSet.from_texts(["a"]).where(fails)
    assert not isinstance(told.value, MechsurgeryError)
    with pytest.raises(RuntimeError, match="allocate memory"):
        checked(_made('def full():\n    raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")\n'))()


def _made(source):
    """A function that lies in no file, as those of dataclasses do."""
    space = {"__name__": "math"}
    exec(source, space)
    return space["full"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: Results.concatenate(iter(["a", "b"])),
        lambda: Results.concatenate(3),
        lambda: Objective.keeping(1),
        lambda: train_one(None, None, {}),
        lambda: prompts_end(3),
        lambda: sha256_of("a text"),
        lambda: html_table([("a", 1)]),
        lambda: PromptSet.from_texts(["a"])[7],
        lambda: PromptSet.from_texts(range(10**12)),
    ],
)
def test_inner_parts_refuse_what_they_cannot_use(call):
    with pytest.raises(MechsurgeryError):
        call()


def test_a_folder_in_the_place_of_the_prompts_is_no_table_without_prompts(tmp_path):
    from support.fuzzed_files import results

    where = results().save(tmp_path / "r") / "prompts.parquet"
    where.unlink()
    assert Results.load(tmp_path / "r").prompts is None  # left out on purpose
    where.mkdir()
    with pytest.raises(LoadError, match="not what was written"):
        Results.load(tmp_path / "r")
