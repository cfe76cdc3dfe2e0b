"""Folders that are damaged, or somebody else's: one sentence each, and nothing is written but figures."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner
from support.summaries import summary

from mechsurgery.cli import main
from mechsurgery.errors import InputError, LoadError
from mechsurgery.evaluation import Results
from mechsurgery.evaluation.table import COLUMNS
from mechsurgery.plots import Drawing, draw, export_all, load_drawings, save_drawings


@pytest.fixture
def folder(tmp_path):
    row = dict.fromkeys(COLUMNS, "x") | {"strength": 0.0, "m": 1.0, "toward": 0.0, "seed": 0, "value": 1.0}
    row |= {"kind": "baseline", "control_of": None, "scale": "rate", "label": "", "tokens": None}
    return Results(pd.DataFrame([row]), {}, pd.DataFrame({"prompt_set": ["x"]})).save(tmp_path / "ev")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.parquet", b"PAR1 and no more"),
        ("prompts.parquet", b""),
        ("manifest.json", b"[]"),
        ("manifest.json", b'{"a": '),
    ],
)
def test_a_damaged_evaluation_is_said_in_a_sentence(folder, name, content):
    (folder / name).write_bytes(content)
    told = CliRunner().invoke(main, ["figures", str(folder)])
    assert told.exit_code == 1
    assert told.output.startswith("Error: ")
    assert len(told.output.splitlines()) == 1


def test_a_table_of_another_program_is_no_evaluation(folder):
    pd.DataFrame({"a": [1]}).to_parquet(folder / "results.parquet")
    with pytest.raises(LoadError, match="not what was written"):
        Results.load(folder)
    (folder / "manifest.json").write_text('{"model": "m"}')  # as of before digests were kept
    with pytest.raises(LoadError, match="lacks the columns 'model', 'intervention'"):
        Results.load(folder)


@pytest.mark.parametrize(
    "function", ["write_page", "export_all", "save_drawings", "Section", "select", "load_drawings"]
)
def test_a_saved_drawing_only_draws(tmp_path, function):
    target = tmp_path / "elsewhere"
    with pytest.raises(InputError, match="no figure"):
        Drawing(function, (str(target), {}, "x")).figure()
    assert not target.exists()


def test_names_in_a_folder_do_not_lead_out_of_it(tmp_path):
    save_drawings(tmp_path, {"fine": draw("bars", summary(), [("refusal", "harmful")])})
    content = json.loads((tmp_path / "drawings.json").read_text("utf-8"))
    for name in ("../out", "/tmp/out", "a/b", "..\\out", ""):
        (tmp_path / "drawings.json").write_text(json.dumps({name: content["fine"]}), encoding="utf-8")
        with pytest.raises(LoadError, match="leads out"):
            load_drawings(tmp_path)
    assert content.pop("checksum")
    content["fine"]["given"][0]["file"] = "../../secret.parquet"
    (tmp_path / "drawings.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(LoadError, match="leads out"):
        load_drawings(tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"a": {"function": "bars"}}'])
def test_drawings_of_another_kind_are_said_in_a_sentence(tmp_path, content):
    (tmp_path / "drawings.json").write_text(content, encoding="utf-8")
    with pytest.raises(LoadError, match=r"not what save_drawings writes|something else, not a drawings"):
        load_drawings(tmp_path)


def test_no_format_is_no_export(tmp_path):
    with pytest.raises(InputError, match="no figure format was given"):
        export_all({"one": draw("bars", summary(), [("refusal", "harmful")]).figure()}, tmp_path, formats=())
