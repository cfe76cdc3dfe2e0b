"""Outputs of other settings are taken out of a folder; what somebody else put there, or changed, stays."""

import hashlib
import sys

import pandas as pd
import pytest

from mechsurgery import plots
from mechsurgery.artifacts import write_text
from mechsurgery.reports.page import Page, Part
from mechsurgery.reports.redraw import redraw
from mechsurgery.reports.study import Study
from mechsurgery.written import FILE, clear, writing_into


def files(folder):
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return found - {FILE}


def study_of(name):
    table = pd.DataFrame({"name": [name], "value": [1.0]})
    circle = plots.as_drawing(plots.draw("bars", SUMMARY, [("refusal", "harmful")]).figure())
    page = Page("Held.", name, ("One.",), (Part("Claims", (), ("Figure",)),))
    title = {"title": name}
    return Study({f"Table {name}: all": table}, {name: circle}, {f"rows {name}": table}, {}, title, page)


SUMMARY = pd.DataFrame(
    {
        "intervention": ["baseline"],
        "kind": ["baseline"],
        "control_of": [None],
        "strength": [0.0],
        "m": [1.0],
        "toward": [0.0],
        "prompt_set": ["harmful"],
        "metric": ["refusal"],
        "label": [""],
        "scale": ["rate"],
        "n": [10],
        "value": [0.5],
        "low": [0.3],
        "high": [0.7],
        "model": ["m"],
    }
)


@pytest.fixture(autouse=True)
def no_browser(monkeypatch):
    monkeypatch.setattr(sys.modules["mechsurgery.plots.export"], "static_export_problem", lambda: "not here")


def test_a_study_of_other_settings_leaves_nothing_of_the_first_but_what_is_not_its_own(tmp_path):
    fresh = tmp_path / "fresh"
    study_of("second").save(fresh)
    out = tmp_path / "out"
    study_of("first").save(out)
    redraw(out, preset="column")
    assert (out / "figures" / "column" / "first.html").is_file()
    others = {
        "notes.txt": "mine",
        "figures/mine.html": "mine",
        "drawn/mine.parquet": "mine",
        "shards/x.parquet": "rows",
    }
    for name, text in others.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)
    (out / "tables" / "table_first.md").write_text("edited by hand")
    study_of("second").save(out)
    assert files(out) == files(fresh) | set(others) | {"tables/table_first.md"}
    assert Study.load(out).tables.keys() == {"Table second: all"}
    before = files(out)
    study_of("second").save(out)
    assert files(out) == before


def test_what_a_killed_run_left_is_known(tmp_path):
    def killed():
        with writing_into(tmp_path, only=True):
            write_text(tmp_path / "a" / "left.txt", "left")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert files(tmp_path) == {"a/left.txt"}
    with (tmp_path / FILE).open("a") as listed:
        listed.write("half a li")
    with writing_into(tmp_path, only=True):
        write_text(tmp_path / "now.txt", "now")
    assert files(tmp_path) == {"now.txt"}
    assert not (tmp_path / "a").exists()


def test_a_run_that_measures_and_saves_into_folders_of_its_models_gathers_what_they_save(tmp_path):
    """Models A and B, then A alone: what was saved of B goes, what was measured stays."""

    def run(names):
        with writing_into(tmp_path, only=True, gathers=True):
            write_text(tmp_path / "shards" / "rows", "rows")
            for name in names:
                with writing_into(tmp_path / name, only=True):
                    write_text(tmp_path / name / "report.html", name)
            with writing_into(tmp_path, only=True):
                write_text(tmp_path / "report.html", str(names))

    run(["a", "b"])
    run(["a", "b"])
    assert files(tmp_path) - {"a/.written", "b/.written"} == {
        "shards/rows",
        "report.html",
        "a/report.html",
        "b/report.html",
    }
    run(["a"])
    assert files(tmp_path) - {"a/.written", "b/.written"} == {"shards/rows", "report.html", "a/report.html"}


def test_a_list_that_leads_out_of_the_folder_removes_nothing(tmp_path):
    outside, out = tmp_path / "precious.txt", tmp_path / "out"
    outside.write_text("precious")
    (out / "sub").mkdir(parents=True)
    (out / "link.txt").symlink_to(outside)
    (out / "sub" / "up").symlink_to(tmp_path)
    digest = hashlib.sha256(b"precious").hexdigest()
    names = ("../precious.txt", str(outside), "link.txt", "sub/up/precious.txt", "sub/../../precious.txt")
    (out / FILE).write_text("".join(f"{digest} {name}\n" for name in names))
    clear(out)
    assert outside.read_text() == "precious"
    assert (out / "link.txt").is_symlink()


def test_files_elsewhere_and_outside_of_it_are_not_listed(tmp_path):
    with writing_into(tmp_path / "in"):
        write_text(tmp_path / "elsewhere.txt", "x")
    write_text(tmp_path / "in" / "later.txt", "x")
    assert not (tmp_path / "in" / FILE).exists()
