"""Damaged and hostile files of every kind: an error of our own, or what was written; never anything else."""

import random
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import fuzzed_files
from support.fuzzed_files import DAMAGES

from mechsurgery.errors import MechsurgeryError

from .conftest import times

KINDS = fuzzed_files.kinds()


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """{kind: (folder, path in it, what is read from it)}."""
    found = {}
    for name, kind in KINDS.items():
        folder = tmp_path_factory.mktemp("valid")
        made = kind.make(folder)
        path = made if made.exists() else made.with_name(f"{made.name}.safetensors")
        found[name] = (folder, path.relative_to(folder), kind.same(kind.read(path)))
    return found


@times(900)
@given(name=st.sampled_from(sorted(KINDS)), how=st.sampled_from(DAMAGES), seed=st.integers(0, 2**32 - 1))
@example(name="Gemma Scope", how="flip", seed=0)  # a zip archive whose checksum differs
@example(name="sparsify", how="other", seed=16)  # a configuration that is a list
@example(name="Results", how="other", seed=9)  # a manifest that says nothing
@example(name="Circuit", how="other", seed=1)  # a header longer than its file
def test_a_damaged_file_is_refused_or_read_as_it_was(name, how, seed, valid, tmp_path_factory):
    kind = KINDS[name]
    folder, path, good = valid[name]
    own = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(folder, own)
    fuzzed_files.damage(own / path, how, random.Random(f"{name} {how} {seed}"))
    before = {file: file.read_bytes() for file in own.rglob("*") if file.is_file()}
    try:
        read = kind.same(kind.read(own / path))
    except MechsurgeryError:
        read = None
    assert {file: file.read_bytes() for file in own.rglob("*") if file.is_file()} == before, "reading wrote something"
    if read is not None and kind.exact and how != "old":
        assert read == good, "something else was read, silently"
