"""The CNA study on organisms: tables agree with the rows, nothing leaks, a second run measures nothing."""

import sys

import pandas as pd
import pytest

from mechsurgery import ContrastSet, PromptSet, load_model
from mechsurgery.errors import InputError, PromptError
from mechsurgery.evaluation import wilson
from mechsurgery.studies.cna import StudyData, aggregate, methods, showing, study_data
from mechsurgery.studies.cna.claims import FAILED, HELD, UNDECIDED, claims
from mechsurgery.studies.cna.page import sections
from mechsurgery.studies.cna.published import ANCHORS, anchor
from mechsurgery.studies.cna.study import cna

OPTIONS = {"max_new_tokens": 8, "n_random": 2, "fraction": 0.003}


@pytest.fixture(scope="module")
def data():
    return study_data(n_discovery=24, n_behaviour=6, n_benign=4, n_validation=3, n_choices=6)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("cna")


@pytest.fixture(scope="module")
def study(data, out):
    return cna("organism/instruct", "organism/base", data=data, out=out, published_k=20, **OPTIONS)


def test_the_tables_are_what_the_rows_say(study, data):
    rows = study.results["corrected"].table
    own = rows[(rows["task"] == "generate") & (rows["prompt_set"] == "behaviour")]
    after = own[(own["intervention"] == methods.CNA) & (own["strength"] == 1)]["refusal"]
    before = own[own["kind"] == "baseline"]["refusal"]
    (name,) = (key for key in study.tables if key.startswith("Table 1"))
    row = study.tables[name].set_index("mode").loc["corrected"]
    assert row["n"] == len(after) == len(data.behaviour)
    assert row["after %"] == pytest.approx(100 * after.mean())
    assert row["before %"] == pytest.approx(100 * before.mean()) == pytest.approx(100)
    low, high = wilson(int(after.sum()), len(after))
    assert row["after 95 %"] == f"[{100 * low:.1f}, {100 * high:.1f}]"
    for prefix in (
        "Claims",
        "Table 2",
        "Table 3",
        "Table 4",
        "Judges",
        "Localisation",
        "Sensitivity",
        "Exchange",
        "Layer",
    ):
        assert any(key.startswith(prefix) and len(study.tables[key]) for key in study.tables), prefix


def test_every_method_is_swept_in_both_signs_and_shares_one_baseline(study):
    rows = study.results["corrected"].table
    for name, own in rows.groupby("intervention"):
        if name != "baseline":
            assert own["strength"].min() < 0 < own["strength"].max(), name
    keys = ["task", "prompt_set", "prompt_id", "seed"]
    assert not rows[rows["kind"] == "baseline"].duplicated(keys).any()
    assert not rows.duplicated([*keys, "intervention", "strength"]).any()
    kinds = {name.split(",")[0].split(" (")[0] for name in rows["intervention"].unique() if "random" not in name}
    assert kinds == {"baseline", "CNA", "CAA", "directional ablation"}
    published = study.results["as published"].table
    assert set(published[published["kind"] == "steering"]["intervention"]) == {methods.CAA_MLP}


def test_the_two_modes_locate_as_they_say(study, data):
    own, published = study.circuits["instruct"], study.circuits["instruct, as published"]
    universal = study.circuits["universal neurons"]
    assert not own.members() & universal.members()
    assert len(own) == round(0.003 * sum(own.widths.values()))
    assert len(published) == 20
    assert not {layer for layer, n in zip(published.per_layer()["layer"], published.per_layer()["n"]) if n} & {0, 1}


def test_published_caa_steers_toward_the_behaviour_and_corrected_away(data):
    model = load_model("organism/instruct")
    found = methods.locate_all(model, data, published_k=20)
    published = next(r for r in methods.as_published(found).runs if r.kind == "steering" and r.strength == 1)
    site, vector = next(iter(found.published_mlp_out.vectors.items()))
    offset = {edit.site: edit.change.offset for edit in published.edits}[site]
    assert float(offset @ vector) > 0
    increments = methods.increments(found.residual)
    total = sum(increments.vectors.values())
    last = list(found.residual.vectors.values())[-1]
    assert (total - last).abs().max() < 1e-4


def test_layers_are_chosen_on_the_validation_split(study):
    (name,) = (key for key in study.tables if key.startswith("Layer choice"))
    table = study.tables[name]
    for _, own in table.groupby("method"):
        assert own["chosen"].sum() == 1
        assert own[own["chosen"]]["loss"].iloc[0] == own["loss"].min()
        assert own["n"].unique().tolist() == [3]


def test_the_report_stands_alone_and_escapes_text(study, out):
    page = (out / "report.html").read_text()
    assert "<script src" not in page
    assert "What did not hold" in page
    assert "nothing here is a finding about real models" in page
    names = {path.name for path in (out / "tables").iterdir()}
    assert {f"table_{i}.{e}" for i in range(1, 5) for e in ("csv", "md", "tex")} <= names
    assert (out / "circuits" / "instruct.safetensors").is_file()
    from mechsurgery.plots import Section, write_page

    bad = pd.DataFrame({"<b>name</b>": ["<script>alert(1)</script>", "&"]})
    text = write_page(out / "bad.html", "<i>t</i>", [Section("<u>s</u>", ("<img src=x>",), {"<p>": bad})]).read_text()
    body = text[text.index("<body>") :]
    for raw in ("<script>alert", "<i>t", "<u>s", "<img", "<b>name"):
        assert raw not in body


def test_a_second_run_measures_nothing_and_says_the_same(study, data, out, monkeypatch):
    monkeypatch.setattr(sys.modules["mechsurgery.evaluation.evaluate"], "perform", lambda *a, **k: pytest.fail("again"))
    again = cna("organism/instruct", "organism/base", data=data, out=out, published_k=20, **OPTIONS)
    for name, table in study.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name])


def test_several_studies_make_one_table(study):
    found = aggregate([study, study])
    assert len(found["Table 1"]) == 4
    assert found["Over models"]["models"].tolist() == [2, 2]
    with pytest.raises(InputError, match="at least one"):
        aggregate([])


def test_a_leak_is_refused(data, contrast):
    with pytest.raises(PromptError, match="share their text"):
        StudyData(
            discovery=data.discovery,
            validation=data.validation,
            behaviour=data.discovery.positive,
            benign=data.benign,
            neutral=data.neutral,
            published=data.published,
        )
    with pytest.raises(InputError, match="modes="):
        cna("organism/instruct", data=data, modes=("published",))
    own = study_data(contrast, n_validation=2)
    texts = [{p.text for p in s} for s in (own.discovery.positive, own.validation.positive, own.behaviour)]
    assert not texts[0] & texts[1]
    assert not texts[1] & texts[2]
    assert {p.text for p in own.published[1]} & texts[0]


def test_a_behaviour_of_ones_own_on_any_model(tiny_llama, contrast):
    """No chat model, no refusal: any judge of the text, only prompts that show it, and no multiple choice."""

    def judge(text):
        return sum(map(ord, text)) % 2 == 0

    words = ["fox", "dog", "cake", "garden", "letter", "soup", "lamp", "river"]
    sides = [[f"{start} {a} {b}" for a in words for b in words[:4]] for start in ("I saw the", "She likes a")]
    mine = ContrastSet.from_lists(*sides, name="mine")
    data = study_data(mine, n_validation=2, n_behaviour=8, n_benign=4, neutral=contrast.negative.take(5))
    shown = showing(tiny_llama, data.behaviour, judge=judge, max_new_tokens=6, template="raw")
    assert 0 < len(shown) <= len(data.behaviour)
    done = cna(
        tiny_llama,
        data=data,
        judge=judge,
        behaviour="even text",
        only_showing=True,
        max_new_tokens=6,
        template="raw",
        fraction=0.02,
        n_random=2,
        sensitivity=False,
        modes=("corrected",),
    )
    (name,) = (key for key in done.tables if key.startswith("Table 1"))
    assert done.tables[name]["n"].tolist() == [len(shown)]
    assert done.tables[name]["before %"].tolist() == [100]
    assert not any(key.startswith("Table 3") for key in done.tables)
    text = " ".join(sections(done)[0].text)
    assert "asked of another behaviour" in text
    assert "no chat model" not in text
    with pytest.raises(PromptError, match="on none of"):
        showing(tiny_llama, data.behaviour, judge=lambda text: False, max_new_tokens=3)


def test_a_model_that_is_no_chat_model_is_called_so(tiny_checkpoint, contrast):
    data = study_data(contrast, n_validation=2, n_behaviour=2, n_benign=2, neutral=contrast.negative.take(3))
    model = load_model(tiny_checkpoint("llama", template=False))
    done = cna(
        model, data=data, max_new_tokens=2, n_random=1, sensitivity=False, modes=("as published",), published_k=4
    )
    assert "it is no chat model" in " ".join(sections(done)[0].text)


def test_verdicts_follow_the_intervals(study):
    summary = study.results["corrected"].summary()

    def verdict(value, low, high):
        changed = summary.copy()
        where = (changed["intervention"] == methods.CNA) & (changed["strength"] == 1) & (changed["metric"] == "refusal")
        changed.loc[where, ["value", "low", "high", "baseline"]] = [value, low, high, 1.0]
        table = claims({"corrected": changed})
        return table[table["claim"].str.contains("halves")]["verdict"].iloc[0]

    assert verdict(0.1, 0.05, 0.2) == HELD
    assert verdict(0.5, 0.4, 0.6) == UNDECIDED
    assert verdict(0.9, 0.8, 0.95) == FAILED


def test_anchors_are_found_by_model_name():
    assert anchor("meta-llama/Llama-3.2-1B-Instruct")[0] == "Llama-3.2-1B"
    assert anchor("models/Qwen2.5-7B-Instruct")[0] == "Qwen2.5-7B"
    assert anchor("Qwen/Qwen2.5-7B") is None
    assert anchor("meta-llama/Llama-3.2-11B-Instruct") is None
    assert anchor("organism/instruct") is None
    assert len(ANCHORS) == 8


def test_the_command_takes_files_and_a_pattern(tmp_path, contrast):
    from click.testing import CliRunner

    from mechsurgery.cli import main

    for side in ("positive", "negative"):
        prompts: PromptSet = getattr(contrast, side)
        pd.DataFrame({"text": [p.text for p in prompts]}).to_csv(tmp_path / f"{side}.csv", index=False)
    done = CliRunner().invoke(
        main,
        [
            "study",
            "cna",
            "--instruct",
            "organism/instruct",
            "--positive",
            str(tmp_path / "positive.csv"),
            "--negative",
            str(tmp_path / "negative.csv"),
            "--shown-by",
            "the|a",
            "--mode",
            "corrected",
            "--no-sensitivity",
            "-n",
            "3",
            "--max-new-tokens",
            "3",
            "--out",
            str(tmp_path / "out"),
            "--fraction",
            "0.002",
        ],
    )
    assert done.exit_code == 0, done.output
    assert "Table 1" in done.output
    assert (tmp_path / "out" / "report.html").is_file()
    bad = CliRunner().invoke(main, ["study", "cna", "--instruct", "organism/instruct", "--shown-by", "("])
    assert "no regular expression" in bad.output


def test_an_unknown_study_is_named():
    import mechsurgery

    with pytest.raises(AttributeError, match="studies: cna"):
        _ = mechsurgery.studies.nothing
    assert isinstance(study_data(n_behaviour=2).discovery, ContrastSet)
