"""Shared fixtures: tiny random Hugging Face checkpoints of every architecture, made on the spot."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Two workers on two cores: threads would wait for each other, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MECHSURGERY_PROGRESS"] = "0"

from jaxtyping import install_import_hook

import support.typecheck  # noqa: F401 (the hook looks it up by name)

install_import_hook("mechsurgery", "support.typecheck.checked")

import pytest
import torch

torch.set_num_threads(1)
gc.set_threshold(100_000, 50, 100)  # so many objects live through the whole run; looking at them all is for nothing
# Thousands of small files are written here, and waiting for the disk after each would take minutes.
os.fsync = lambda handle: None

from support import checkpoints

#: The longest files first, so that no worker is left alone with one of them at the end.
LONGEST = (
    *("test_notebooks", "test_weights", "test_demo", "test_cna", "test_latents", "test_bad_neurons", "test_readme"),
    *("test_notebooks_elsewhere", "test_minimal_circuits", "test_grid", "test_further", "test_dictionaries"),
    *("test_widget_browser", "test_weights_own", "test_regrade", "test_bad_neurons_published", "test_cna_folds"),
    *("test_site", "test_app", "test_load", "test_trained", "test_localisers", "test_weights_watch"),
    *("test_arguments", "test_files"),
)


def pytest_collection_modifyitems(items):
    """Order files by how long they take; a file's own tests stay in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """`tiny_checkpoint(family, **config changes)`: directory of a random checkpoint, made once for each call."""
    made = {}

    def make(family, *, dtype="float32", max_shard_size="1GB", template=True, **changes):
        key = (family, dtype, max_shard_size, template, repr(sorted(changes.items())))
        if key not in made:
            directory = tmp_path_factory.mktemp(family)
            made[key] = checkpoints.save(
                family, directory, dtype=dtype, max_shard_size=max_shard_size, template=template, **changes
            )
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_llama_dir(tiny_checkpoint):
    """Directory of a tiny random Llama with a chat template."""
    return tiny_checkpoint("llama")


@pytest.fixture(scope="session")
def tiny_llama(tiny_llama_dir):
    """The tiny Llama, loaded. Shared by all tests: leave it as it was."""
    from mechsurgery.models import load_model

    return load_model(tiny_llama_dir)


@pytest.fixture(scope="session")
def contrast():
    """Two sides of 12 short requests of different lengths."""
    from mechsurgery.prompts import ContrastSet

    dangerous = ["a bomb", "the poison", "a cruel virus", "some strong acid that burns"]
    benign = ["a cake", "the garden", "a kind letter", "some warm soup that heals"]
    frames = ["How do I make {}?", "Tell me about {} please.", "Explain to my friend, step by step, {}."]
    sides = [[frame.format(noun) for noun in nouns for frame in frames] for nouns in (dangerous, benign)]
    return ContrastSet.from_lists(*sides, name="tiny")
