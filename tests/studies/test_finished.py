"""A finished study: complete on disk, read in seconds and drawn again without a model, never mixed with another."""

import json
import time

import pandas as pd
import pytest
from click.testing import CliRunner

from mechsurgery.cli import main
from mechsurgery.errors import InputError, LoadError
from mechsurgery.evaluation import Results
from mechsurgery.plots import draw
from mechsurgery.reports import finished
from mechsurgery.reports.page import Page, Part, verdict
from mechsurgery.reports.redraw import redraw
from mechsurgery.reports.study import Study
from mechsurgery.studies import localisers
from mechsurgery.units import UnitScores

NAMES = ("difference (published)", "weight change from the base")
SETTINGS = localisers.Settings(
    case=("planted",), localiser=NAMES, budget=(9, 48), n_behaviour=8, n_other=6, n_discovery=24, exact=False
)
WORDS = [
    *("study localisers --case planted --budget 9 --budget 48 --n-behaviour 8 --n-other 6".split()),
    *("--n-discovery 24 --no-exact".split()),
    *(word for name in NAMES for word in ("--localiser", name)),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="module")
def study(out):
    return localisers.run(SETTINGS, out=out)


@pytest.fixture
def no_model(monkeypatch):
    def never(*args, **options):
        raise AssertionError("a model was loaded or measured")

    for place in ("models.load.load_model", "models.load_model", "studies.localisers.study.load_model"):
        monkeypatch.setattr(f"mechsurgery.{place}", never)
    monkeypatch.setattr("mechsurgery.evaluation.jobs.perform", never)
    monkeypatch.setattr("torch.nn.Module.__call__", never)


def test_everything_comes_back_from_disk(study, out):
    again = Study.load(out)
    assert again.tables.keys() == study.tables.keys()
    for name, table in study.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table)
    assert again.results["planted"].prompts["text"].str.len().min() > 0
    pd.testing.assert_frame_equal(again.results["planted"].table, study.results["planted"].table)
    assert {name: type(one) for name, one in again.artefacts.items()} == {f"planted {n}": UnitScores for n in NAMES}
    for name, scores in again.artefacts.items():
        for site, values in scores.scores.items():
            assert values.equal(study.artefacts[name].scores[site])
    assert json.dumps(again.page.facts()) == json.dumps(study.page.facts())
    assert again.text() == study.text()
    assert (out / "tables" / "sizes.parquet").is_file()


def test_what_is_drawn_from_disk_is_what_was_drawn(study, out, no_model):
    drawn = Study.load(out).figures
    assert drawn.keys() == study.figures.keys()
    for name, figure in study.figures.items():
        assert drawn[name].to_json() == figure.to_json()
        assert json.loads((out / "figures" / f"{name}.json").read_text()) == json.loads(figure.to_json())


def test_a_finished_study_is_read_in_seconds_and_says_the_same(study, out, no_model):
    started = time.monotonic()
    done = CliRunner().invoke(main, [*WORDS, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert time.monotonic() - started < 10
    assert done.output.startswith(study.text())
    assert localisers.run(SETTINGS, out=out).text() == study.text()


def test_other_settings_are_refused_with_what_differs_unless_told(study, out, no_model):
    other = [*WORDS, "--n-behaviour", "9", "--out", str(out)]
    refused = CliRunner().invoke(main, other)
    assert refused.exit_code == 1
    assert "n_behaviour was 8, now 9" in refused.output
    assert "--again" in refused.output
    with pytest.raises(AssertionError, match="a model was loaded"):
        CliRunner().invoke(main, [*other, "--again"], catch_exceptions=False)
    # What was finished is not any more: a run into it was begun.
    assert finished.differences(out, "localisers", SETTINGS) is None
    finished.save_json(out / finished.FILE, finished.facts("localisers", SETTINGS))
    with pytest.raises(InputError, match="study was 'localisers', now 'cna'"):
        finished.check_same(out, "cna", SETTINGS)


def test_a_file_that_changed_is_another_setting(tmp_path):
    prompts = tmp_path / "positive.txt"
    prompts.write_text("one")
    settings = localisers.Settings(model="organism/planted", positive=str(prompts), negative=str(prompts))
    finished.save_json(tmp_path / "out" / finished.FILE, finished.facts("localisers", settings))
    assert finished.differences(tmp_path / "out", "localisers", settings) == {}
    prompts.write_text("two")
    with pytest.raises(InputError, match=r"the content of .*positive\.txt changed"):
        finished.check_same(tmp_path / "out", "localisers", settings)


def test_figures_are_drawn_again_at_another_size_or_some_of_them(study, out, no_model, tmp_path):
    before = (out / "report.html").stat().st_mtime_ns
    told = CliRunner().invoke(main, ["figures", str(out), "--preset", "column", "--formats", "json,html"])
    assert told.exit_code == 0, told.output
    folder = out / "figures" / "column"
    assert {path.name for path in folder.glob("sizes_*")} == {"sizes_planted.json", "sizes_planted.html"}
    assert (out / "report.html").stat().st_mtime_ns == before
    some = CliRunner().invoke(main, ["figures", str(out), "--only", "sizes_planted", "--out", str(tmp_path / "some")])
    assert "1 figures written" in some.output
    with pytest.raises(InputError, match="no figure 'x'"):
        redraw(out, only=["x"])
    redraw(out)
    assert (out / "report.html").stat().st_mtime_ns > before


def test_folders_that_hold_nothing_to_draw_say_so(tmp_path):
    with pytest.raises(LoadError, match="no drawings in"):
        redraw(tmp_path)
    (tmp_path / "study.json").write_text('{"title": "of before"}')
    with pytest.raises(LoadError, match="written before studies kept all"):
        redraw(tmp_path)
    (tmp_path / "study.json").unlink()
    Study({}, {}, {}, {}, {"title": "t"}, Page("Held: x.")).save(tmp_path / "of_many")
    with pytest.raises(LoadError, match="no figures"):
        redraw(tmp_path / "of_many")
    drawing = {"loss": draw("loss_curves", {"x": [{"step": 0, "loss": 1.0}]})}
    Study({}, drawing, {}, {}, {"title": "t"}, Page("Held: x.")).save(tmp_path / "of_many" / "one_model")
    assert "1 figures written" in redraw(tmp_path / "of_many", formats=["json"], out=tmp_path / "drawn")
    assert (tmp_path / "drawn" / "one_model" / "loss.json").is_file()


def test_a_comparison_is_drawn_again(tiny_llama_dir, tiny_checkpoint, contrast, tmp_path, monkeypatch):
    for side in (contrast.positive, contrast.negative):
        side.to_frame()[["text"]].to_csv(tmp_path / f"{side.name}.csv", index=False)
    files = ["--positive", str(tmp_path / "positive.csv"), "--negative", str(tmp_path / "negative.csv")]
    other = tmp_path / "other"
    other.symlink_to(tiny_llama_dir)
    words = ["compare", str(tiny_llama_dir), str(other), *files, "--fraction", "0.05", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert len(UnitScores.load(tmp_path / "out" / "scores" / "base.safetensors")) > 0
    first = {path.name: path.read_text() for path in (tmp_path / "out" / "figures").glob("*.json")}
    assert len(first) == 4
    monkeypatch.setattr("mechsurgery.models.load.load_model", None)
    redraw(tmp_path / "out", out=tmp_path / "again", formats=["json"])
    assert {path.name: path.read_text() for path in (tmp_path / "again").glob("*.json")} == first


def claims_table(*verdicts):
    rows = [{"claim": f"claim {i}", "rule": "r", "measured": f"{i} %", "verdict": v} for i, v in enumerate(verdicts)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("verdicts", "main", "said"),
    [
        (["held", "did not hold"], ["claim 0"], "Held: “claim 0” (0 %)."),
        (["held", "did not hold"], ["claim 1"], "Did not hold: “claim 1” (1 %)."),
        (["undecided"], [], "Undecided: “claim 0” (0 %)."),
        (["held", "did not hold"], [], "Held in part: “claim 0” held (0 %); “claim 1” did not hold (1 %)."),
        (["not measurable", "not measurable"], [], "Not measurable: “claim 0” (0 %); “claim 1” (1 %)."),
        (
            ["undecided", "did not hold"],
            [],
            "Did not hold: “claim 0” is undecided (0 %); “claim 1” did not hold (1 %).",
        ),
    ],
)
def test_the_verdict_is_of_the_main_claims(verdicts, main, said):
    assert verdict(claims_table(*verdicts), main) == said


def test_a_report_opens_with_verdict_and_picture_and_folds_its_tables(study, out):
    page = (out / "report.html").read_text()
    body = page[page.index("<body>") :]
    assert body.index("class='lead") < body.index("id='f0-0'") < body.index("What was asked</h2>")
    assert body.count("<details") == body.count("<table>")
    assert "<details open><summary>Responses" in body
    assert "<code>mechsurgery study localisers --case planted" in body
    for fact in ("hardware", "versions", "seed", "made", "torch"):
        assert f"<td>{fact}" in body or fact in body
    first = study.results["planted"].prompts["text"].iloc[0]
    assert first in body


def test_parts_take_tables_and_figures_by_name_and_none_is_lost(tmp_path):
    table = pd.DataFrame({"a": [1]})
    tables = {"One: of a part": table, "Two: of none": table}
    drawings = {name: draw("loss_curves", {"x": [{"step": 0, "loss": 1.0}]}) for name in ("first", "in part", "free")}
    page = Page("Held: x.", "first", (), (Part("A part", (), ("One",), ("in part", "first", "absent")),))
    study = Study(tables, drawings, {}, {}, {"title": "t"}, page, captions={"free": "A <free> figure"})
    from mechsurgery.reports.page import sections

    made = sections(study.page, study.info, study.tables, study.figures, study.captions)
    by_title = {section.title: section for section in made}
    assert list(by_title[""].figures) == ["first"]
    assert list(by_title["A part"].figures) == ["in part"]
    assert list(by_title["Further figures and tables"].tables) == ["Two: of none"]
    assert list(by_title["Further figures and tables"].figures) == ["A <free> figure"]


def test_results_of_a_study_compare(study):
    results = study.results["planted"]
    assert isinstance(results, Results)
    table = study.tables["Responses: the leader's largest circuit put out"]
    assert table["flipped"].is_monotonic_decreasing
    assert set(table["prompt"]) <= set(results.prompts["text"])
