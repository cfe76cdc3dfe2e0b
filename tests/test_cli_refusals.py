"""What the command line is given wrongly is said in one line."""

import pytest
from click.testing import CliRunner

from mechsurgery.cli import main
from mechsurgery.inspector import Catalogue
from mechsurgery.units import Circuit

SITE = "blocks.1.mlp.hook_post"


@pytest.fixture
def saved(tmp_path):
    return Circuit.from_indices({SITE: [3]}, {SITE: 112}, name="one").save(tmp_path / "c.safetensors")


def refused(*words):
    told = CliRunner().invoke(main, [str(word) for word in words])
    assert told.exit_code != 0
    assert isinstance(told.exception, SystemExit), told.exception
    return told.output.strip().splitlines()[-1]


def test_a_path_that_cannot_be_written(tiny_llama_dir, saved, tmp_path):
    words = ["evaluate", tiny_llama_dir, "--circuit", saved, "-n", 2, "--controls", 0, "--max-new-tokens", 1]
    assert "Not a directory" in refused(*words, "--out", saved)


def test_choices_without_choices(tiny_llama_dir, saved, tmp_path):
    words = ["evaluate", tiny_llama_dir, "--circuit", saved, "--out", tmp_path / "out"]
    assert "no set of multiple choice" in refused(*words, "--choices", "organism/dangerous")


def test_fewer_than_no_random_circuits(tiny_llama_dir, saved, tmp_path):
    words = ["evaluate", tiny_llama_dir, "--circuit", saved, "--out", tmp_path / "out"]
    assert "-1 is not in the range x>=0" in refused(*words, "--controls", -1)


def test_a_circuit_of_no_units_can_be_looked_at(tiny_llama):
    empty = Circuit.from_indices({SITE: []}, {SITE: 112}, name="empty")
    assert Catalogue(tiny_llama, None, empty).document()["circuit"]["size"] == 0
