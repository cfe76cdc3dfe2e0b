"""A fine-tune is made once for each key, whatever happens in between."""

import pytest
import torch

from mechsurgery.deltas import Dense, WeightDelta
from mechsurgery.training.kept import trained


def delta(value):
    return WeightDelta({"w": Dense(torch.full((2, 2), value))}, "made", {"curve": [{"step": 1, "loss": 0.5}]})


def never():
    raise AssertionError("trained again")


def test_what_was_trained_is_read_back_under_its_key(tmp_path):
    first = trained(tmp_path, "a", lambda: delta(1.0))
    again = trained(tmp_path, "a", never)
    assert again.digest == first.digest
    assert again.info == first.info
    assert trained(tmp_path, "b", lambda: delta(2.0)).digest != first.digest
    assert trained(None, "a", lambda: delta(3.0)).digest == delta(3.0).digest


def test_a_training_that_fails_leaves_nothing_and_a_broken_file_is_made_again(tmp_path, caplog):
    with pytest.raises(AssertionError):
        trained(tmp_path, "a", never)
    assert not list(tmp_path.rglob("*.safetensors"))
    trained(tmp_path, "a", lambda: delta(1.0))
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    assert trained(tmp_path, "a", lambda: delta(1.0)).digest == delta(1.0).digest
    assert "trained again" in caplog.text
    assert trained(tmp_path, "a", never).digest == delta(1.0).digest
