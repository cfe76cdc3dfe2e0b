"""What a ranking keeps: it comes back as it was, only under its own key, and is made again where a file is damaged."""

import pytest
import torch

from mechsurgery.attribution.kept import kept_probe, kept_scores, kept_tensors
from mechsurgery.attribution.probes import Probe
from mechsurgery.units import UnitScores

SITES = ("blocks.1.mlp.hook_post", "blocks.0.mlp.hook_post")


def scores():
    return UnitScores({site: torch.randn(5) for site in SITES}, "a rule", {"n": 3, "names": ["ä"]})


def probe():
    parts = [{site: torch.randn(5) for site in SITES} for _ in range(3)]
    return Probe(*parts, 0.1, 0.9, 0.8, 0.95, 12, "l2", 0.01, {"a": 1}, 4, (0.5, 0.25))


def never():
    raise AssertionError("made again")


def test_scores_come_back_in_their_order_and_are_made_once(tmp_path):
    made = scores()
    first = kept_scores(tmp_path, "a" * 64, lambda: made)
    for found in (first, kept_scores(tmp_path, "a" * 64, never)):
        assert list(found.scores) == list(SITES)
        assert all(torch.equal(found.scores[site], made.scores[site]) for site in SITES)
        assert (found.rule, found.info) == (made.rule, made.info)


def test_a_probe_comes_back_with_its_cross_validation(tmp_path):
    made = probe()
    for found in (kept_probe(tmp_path, "a" * 64, lambda: made), kept_probe(tmp_path, "a" * 64, never)):
        assert repr(found) == repr(made)
        activations = {site: torch.randn(3, 5) for site in SITES}
        assert torch.equal(found.decision(activations), made.decision(activations))


def test_nothing_is_kept_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kept_tensors(None, "a", lambda: {"x": torch.ones(2)})["x"].tolist() == [1, 1]
    assert not list(tmp_path.iterdir())


def test_another_key_and_a_damaged_file_are_made_again(tmp_path):
    for key in "ab":
        kept_tensors(tmp_path, key * 64, lambda k=key: {"x": torch.tensor([ord(k)])})
    a, b = (tmp_path / "scores" / f"{key * 32}.safetensors" for key in "ab")
    b.write_bytes(a.read_bytes())
    assert kept_tensors(tmp_path, "b" * 64, lambda: {"x": torch.tensor([ord("b")])})["x"].tolist() == [ord("b")]
    a.write_bytes(a.read_bytes()[:-4])
    again = kept_tensors(tmp_path, "a" * 64, lambda: {"x": torch.tensor([7])})
    assert again["x"].tolist() == [7]
    with pytest.raises(AssertionError, match="made again"):
        kept_tensors(tmp_path, "c" * 64, never)
