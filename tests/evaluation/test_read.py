"""Responses beside their prompts, whole and escaped, flips first; and an evaluation in a few lines."""

import html
import re

import pandas as pd
import pytest
from click.testing import CliRunner

from mechsurgery import Circuit, PromptSet, Results, ablate, evaluate, load_model, load_prompts
from mechsurgery.cli import main
from mechsurgery.errors import InputError
from mechsurgery.evaluation import Generation
from mechsurgery.evaluation.read import UNGRADED, compared
from mechsurgery.evaluation.table import COLUMNS, typed
from mechsurgery.evaluation.told import told
from mechsurgery.grading.world import REQUEST
from mechsurgery.models import sites
from mechsurgery.organisms.registry import planted_units
from mechsurgery.safe_text import visible

NASTY = "<img src=x onerror=alert(1)> \u202eabc " + "long " * 60 + "</td></script>"


@pytest.fixture(scope="module")
def planted():
    return load_model("organism/planted")


@pytest.fixture(scope="module")
def recorded(planted):
    return Circuit.from_indices(planted_units(), sites.neuron_widths(planted), name="recorded")


@pytest.fixture(scope="module")
def results(planted, recorded):
    sets = {
        "dangerous": load_prompts("organism/dangerous", split="heldout").take(10),
        "choices": load_prompts("organism/choices", split="heldout").take(6),
    }
    how = Generation(max_new_tokens=28)
    run = ablate(recorded)
    return evaluate(planted, sets, [run, *run.at(m=[0.5])], grades=[REQUEST], controls=2, generation=how)


def handmade(cells, *, metric="outcome", scale="label"):
    """A table of one prompt set: {intervention: [(response, label)]}, a pair a prompt."""
    rows = []
    for name, said in cells.items():
        for i, (response, label) in enumerate(said):
            kind = "baseline" if name == "baseline" else "scale"
            row = {"intervention": name, "kind": kind, "prompt_id": f"p{i}", "group": f"p{i}", "response": response}
            rows.append(row | ({"label": label} if scale == "label" else {"value": label, "label": ""}))
    facts = {"model": "m", "strength": 0.0, "seed": 0, "prompt_set": "set", "metric": metric, "scale": scale}
    return typed(pd.DataFrame(rows).assign(**facts).reindex(columns=list(COLUMNS)))


def texts(*given):
    return pd.DataFrame({"prompt_set": "set", "prompt_id": [f"p{i}" for i in range(len(given))], "text": given})


def test_flips_stand_first_beside_the_prompts_that_were_asked(results, planted):
    every = results.compare()
    assert len(every) == 2 * (10 + 6), "both strengths on both sets, no control"
    assert list(every.columns[:2]) == ["strength", "prompt_set"]
    own = results.compare("recorded", prompt_set="dangerous", grade="outcome")
    own = own[own["strength"] == own["strength"].max()]
    assert own["flipped"].is_monotonic_decreasing
    asked = {prompt.text for prompt in load_prompts("organism/dangerous", split="heldout").take(10)}
    assert set(own["prompt"]) == asked
    rows = results.table[results.table["metric"] == "outcome"].set_index(["prompt_id", "intervention", "strength"])
    said = results.prompts.set_index("text")["prompt_id"]
    for row in own.itertuples():
        after = rows.loc[(said[row.prompt], "recorded", row.strength)]
        before = rows.loc[(said[row.prompt], "baseline", 0.0)]
        assert (row.before, row.after) == (before["response"], after["response"])
        assert row.flipped == (before["label"] != after["label"])
    letters = results.compare("recorded", prompt_set="choices")
    assert set(letters["label before"]) <= {"right", "wrong"}
    assert letters["before"].str.len().eq(1).all()


def test_the_html_is_whole_and_nothing_in_it_is_markup():
    cells = {"baseline": [(NASTY, "refuses"), ("same", "x")], "run": [(NASTY + "!", "complies"), ("same", "x")]}
    table = compared(handmade(cells), texts("<b>why</b>", "other"))
    for shown in (table.to_html(), table._repr_html_(), table.head(1).to_html()):
        assert any(html.escape(text, quote=False) in shown for text in (NASTY, visible(NASTY)))
        assert not re.search(r"<(img|b|script)\b|</script", shown)
    assert "1 flipped" in table._repr_html_()
    assert table["prompt"].tolist() == ["<b>why</b>", "other"]
    assert len(compared(handmade(cells), texts("a", "b"), n=1)) == 1


def test_yes_or_no_grades_and_responses_that_no_grade_decided():
    cells = {"baseline": [("no", 1.0), ("a", None), ("b", 0.0)], "run": [("yes", 0.0), ("c", 1.0), ("b", 0.0)]}
    table = compared(handmade(cells, metric="refusal", scale="rate"), texts("p", "q", "r"))
    assert table["flipped"].tolist() == [True, False, False]
    first = table.set_index("prompt")
    assert first.loc["p", ["label before", "label after"]].tolist() == ["refusal", "no refusal"]
    assert first.loc["q", "label before"] == UNGRADED


def test_results_without_texts_load_and_say_what_they_lack(results, tmp_path):
    results.save(tmp_path)
    again = Results.load(tmp_path)
    pd.testing.assert_frame_equal(again.prompts, results.prompts)
    pd.testing.assert_frame_equal(pd.DataFrame(again.compare()), pd.DataFrame(results.compare()))
    assert "User" in again.prompts["rendered"].iloc[0] or again.prompts["rendered"].iloc[0] != ""
    (tmp_path / "prompts.parquet").unlink()
    old = Results.load(tmp_path)
    pd.testing.assert_frame_equal(old.summary(), results.summary())
    with pytest.raises(InputError, match="without the texts of their prompts"):
        old.compare()
    joined = Results.concatenate([results, results])
    assert len(joined.compare()) == len(results.compare())


def test_what_is_not_there_is_refused(results, planted):
    for how, said in (
        ({"intervention": "none"}, "no intervention 'none'; there are"),
        ({"grade": "absent"}, "no grade 'absent'"),
        ({"prompt_set": "x"}, "no prompt_set 'x'"),
    ):
        with pytest.raises(InputError, match=said):
            results.compare(**how)
    alone = evaluate(planted, PromptSet.from_texts(["How to make a knife?"]), generation=Generation(max_new_tokens=2))
    with pytest.raises(InputError, match="only the unmodified model"):
        alone.compare()
    assert "nothing was changed" in told(alone)[0]


def test_five_lines_agree_with_the_summary(results):
    changed, much, random, damage = told(results)
    summary = results.summary()
    own = summary[(summary["intervention"] == "recorded") & (summary["prompt_set"] == "dangerous")]
    own = own[(own["m"] == 0) & (own["metric"] == "outcome")].set_index("label")
    pairs = results.compare("recorded", prompt_set="dangerous")
    pairs = pairs[pairs["strength"] == pairs["strength"].max()]
    assert "m = 0 (of 2 settings" in changed
    assert f"{int(pairs['flipped'].sum())} of 10 answers flipped" in changed
    most = own.loc[own["difference"].drop("broken").abs().idxmax()]
    assert f"{100 * most['baseline']:.1f} % → {100 * most['value']:.1f} % [{100 * most['low']:.1f} %" in much
    controls = summary[(summary["control_of"] == "recorded") & (summary["metric"] == "outcome") & (summary["m"] == 0)]
    controls = controls[(controls["label"] == most.name) & (controls["prompt_set"] == "dangerous")]["value"]
    assert random.startswith("Against random: 2 random circuits")
    assert f"mean {100 * controls.mean():.1f} %" in random
    assert f"broken answers {100 * own.loc['broken', 'baseline']:.1f} %" in damage
    assert "right choices" in damage


def test_five_lines_of_a_plain_yes_or_no_grade():
    cells = {"baseline": [("no", 1.0)] * 8, "run": [("yes", 0.0)] * 6 + [("no", 1.0)] * 2}
    table = handmade(cells, metric="refusal", scale="rate")
    lines = told(Results(table, {}, texts(*"abcdefgh")))
    assert "6 of 8 answers flipped (refusal → no refusal 6)" in lines[0]
    assert "refusal: 100.0 % → 25.0 %" in lines[1]
    assert "no random circuits were measured" in lines[2]
    assert "multiple choice was not asked" in lines[3]
    assert "not paired" in told(Results(table, {}))[0]


def test_five_lines_say_what_is_not_known():
    nothing = float("nan")
    cells = {"baseline": [("no", 1.0)] * 3, "run": [("?", nothing)] * 3}
    table = handmade(cells, metric="refusal", scale="rate")
    assert "no answer could be graded" in told(Results(table, {}, texts(*"abc")))[0]
    alone = table[table["kind"] != "baseline"].assign(value=1.0)
    assert "no unmodified model beside" in told(Results(alone, {}, texts(*"abc")))[0]


def test_five_lines_on_several_models_are_on_the_one_that_changes_most():
    cells = {"baseline": [("no", 1.0)] * 4, "run": [("yes", 0.0)] * 4}
    more = handmade(cells, metric="refusal", scale="rate")
    less = more.assign(model="other", value=1.0)
    lines = told(Results(pd.concat([less, more]), {}, texts(*"abcd")))
    assert "m (of 2 models the one that changes most), run" in lines[0]
    assert "4 of 4 answers flipped" in lines[0]


def test_evaluate_prints_five_lines_and_its_folder_is_drawn_without_a_model(recorded, tmp_path, monkeypatch):
    recorded.save(tmp_path / "c.safetensors")
    out = tmp_path / "out"
    words = ["evaluate", "organism/planted", "--circuit", str(tmp_path / "c.safetensors"), "--choices"]
    words += ["organism/choices", "-n", "4", "--controls", "2", "--n-control-prompts", "2", "--m", "0", "--m", "2"]
    words += ["--max-new-tokens", "12", "--out", str(out)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    starts = ("What changed:", "By how much:", "Against random:", "Damage:", "Files:")
    assert [line.split(":")[0] + ":" for line in done.output.splitlines()] == list(starts)
    assert {path.name for path in out.iterdir()} >= {"results.parquet", "prompts.parquet", "manifest.json"}
    whole = CliRunner().invoke(main, [*words, "--all"])
    assert "difference_low" in whole.output
    assert whole.output.endswith(done.output)

    def never(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("mechsurgery.models.load.load_model", never)
    monkeypatch.setattr("mechsurgery.models.load_model", never)
    drawn = CliRunner().invoke(main, ["figures", str(out), "--formats", "json,html"])
    assert drawn.exit_code == 0, drawn.output
    names = {path.stem for path in (out / "figures").glob("*.json")}
    assert names == {"outcome_prompts", "side_effects", "over_strength"}
    one = CliRunner().invoke(main, ["figures", str(out), "--formats", "json", "--only", "absent"])
    assert "no figure 'absent'" in one.output
    assert "outcome_prompts" in one.output
