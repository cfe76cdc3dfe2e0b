"""Artefacts: atomic, typed, and with their origin."""

import json

import pytest
import torch

from mechsurgery import artifacts
from mechsurgery.directions import Direction
from mechsurgery.errors import ActivationError, InputError, LoadError, SiteError


def test_a_failing_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = artifacts.save_json(tmp_path / "a.json", {"x": 1})

    def fail(target):
        target.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        artifacts.write_atomically(path, fail)
    assert artifacts.load_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_provenance_names_time_and_versions():
    facts = artifacts.provenance(seed=3)
    assert facts["seed"] == 3
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "transformer-lens", "transformers", "mechsurgery"} <= set(facts["versions"])
    assert json.dumps(facts)


def test_malformed_json_is_one_clear_error(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(LoadError, match=r"a\.json"):
        artifacts.load_json(tmp_path / "a.json")


def test_directions_round_trip_and_compare(tmp_path):
    a = Direction({"blocks.0.hook_resid_post": torch.tensor([3.0, 4.0])}, "a", {"n": 2})
    b = Direction({"blocks.0.hook_resid_post": torch.tensor([4.0, -3.0])}, "b")
    again = Direction.load(a.save(tmp_path / "a"))
    assert torch.equal(again.at("blocks.0.hook_resid_post"), a.at("blocks.0.hook_resid_post"))
    assert (again.name, again.info) == ("a", {"n": 2})
    assert a.unit().at("blocks.0.hook_resid_post").tolist() == pytest.approx([0.6, 0.8])
    assert a.cosine(b)["blocks.0.hook_resid_post"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(SiteError, match="has no vector at 'blocks.1"):
        a.at("blocks.1.hook_resid_post")


def test_directions_must_be_finite_and_not_empty():
    with pytest.raises(ActivationError, match="NaN"):
        Direction({"hook_embed": torch.tensor([float("nan")])})
    with pytest.raises(InputError, match="at least one"):
        Direction({})


def test_a_column_of_mixed_kinds_never_costs_a_table(tmp_path):
    import pandas as pd

    from mechsurgery.artifacts import save_table

    table = pd.DataFrame({"n": [1, 2], "mixed": [1.5, "none"]}, index=["a", "b"])
    again = pd.read_parquet(save_table(tmp_path / "t.parquet", table))
    assert again["n"].equals(table["n"])
    assert again["mixed"].tolist() == ["1.5", "none"]
    with pytest.raises(ValueError, match="uplicate"):
        save_table(tmp_path / "t.parquet", pd.DataFrame([[1, 2]], columns=["a", "a"]))
    assert pd.read_parquet(tmp_path / "t.parquet").equals(again)
