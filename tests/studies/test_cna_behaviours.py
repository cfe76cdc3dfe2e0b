"""The CNA study of other behaviours and models: who decides what a response is, and what is refused."""

from dataclasses import replace

import pandas as pd
import pytest
from click.testing import CliRunner
from support.cna import LEAST, SETTINGS, lighten, little_data

from mechsurgery.cli import main
from mechsurgery.errors import InputError, PromptError
from mechsurgery.grading.grade import ANSWERS, Grade
from mechsurgery.grading.world import REQUEST
from mechsurgery.models import load_model
from mechsurgery.prompts import ContrastSet
from mechsurgery.studies.cna import Settings, StudyData, bench, run, study_data
from mechsurgery.studies.cna.study import TABLE_1, TABLE_2


@pytest.fixture(autouse=True, scope="module")
def light():
    with pytest.MonkeyPatch.context() as patch:
        lighten(patch)
        yield


@pytest.fixture(scope="module")
def instruct():
    return load_model("organism/instruct")


@pytest.fixture(scope="module")
def little():
    return little_data()


def test_a_leak_is_refused(contrast):
    data = study_data(SETTINGS)
    parts = {name: getattr(data, name) for name in ("discovery", "validation", "benign", "neutral", "published")}
    for behaviour in (data.discovery.positive, data.validation.positive):
        with pytest.raises(PromptError, match="share their text"):
            StudyData(**parts, behaviour=behaviour)
    split = study_data(replace(SETTINGS, n_validation=2, folds=1), contrast)
    texts = [{p.text for p in part} for part in (split.discovery.positive, split.validation.positive, split.behaviour)]
    assert not texts[0] & texts[1]
    assert not (texts[0] | texts[1]) & texts[2]
    assert {p.text for p in split.published[1]} & texts[0]


def test_shares_say_how_many_prompts_evaluate(contrast):
    few = study_data(Settings(folds=1, discovery_share=0.2, validation_share=0.1), contrast)
    many = study_data(Settings(folds=1, discovery_share=0.8, validation_share=0.5), contrast)
    assert len(few.discovery.positive) + len(few.validation.positive) + len(few.behaviour) == 12
    assert len(few.behaviour) > 7 > 2 > len(many.behaviour)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": ("published",)}, "choose from"),
        ({"base": ("a", "b")}, "give each its base"),
        ({"positive": "a.csv"}, "both --positive"),
        ({"shown_by": "("}, "no regular expression"),
        ({"controls": 0}, "at least 1"),
        ({"folds": 0}, "give 1 or more"),
        ({"folds": 2, "evaluate": "jbb"}, "give 1 or more"),
        ({"evaluate_positive": "a.csv"}, "both --evaluate-positive"),
        ({"evaluate": "jbb", "evaluate_positive": "a.csv", "evaluate_negative": "b.csv"}, "not both"),
        ({"universal": "lose"}, "choose from"),
        ({"column": ("a", "b", "c")}, "positive's and negative's"),
        ({"well_by": "b"}, "give that too"),
    ],
)
def test_wrong_settings_are_one_clear_error(wrong, message):
    with pytest.raises(InputError, match=message):
        Settings(**wrong)


def test_a_behaviour_of_ones_own_on_any_model(tiny_llama, contrast):
    """No refusal: any grade of three outcomes, only prompts that show the behaviour, and no multiple choice."""
    labels = ("even", "odd", "broken")
    even = Grade("parity", "1", lambda _, response: labels[sum(map(ord, response)) % 2], labels=labels)
    words = ["fox", "dog", "cake", "garden", "letter", "soup", "lamp", "river"]
    sides = [[f"{start} {a} {b}" for a in words for b in words[:4]] for start in ("I saw the", "She likes a")]
    settings = replace(
        SETTINGS,
        base=(),
        n_validation=2,
        n_behaviour=8,
        fraction=0.02,
        template="raw",
        max_new_tokens=6,
        only_showing=True,
        sensitivity=False,
        mode=("corrected",),
        localise=("hedging",),
        folds=1,
    )
    data = study_data(settings, ContrastSet.from_lists(*sides), neutral=contrast.negative.take(5))
    done = run(settings, data, instruct=tiny_llama, grade=even)
    row = done.tables[TABLE_1].iloc[0]
    assert 0 < row["n"] <= len(data.behaviour)
    assert (row["response"], row["before %"]) == ("even", 100)
    assert set(labels) <= set(done.tables[TABLE_2])
    assert not [name for name in done.tables if name.startswith(("Table 3", "Judges"))]
    assert "asked of another behaviour" in " ".join(done.page.asked)
    never = Grade("never", "1", lambda _, response: "good", labels=ANSWERS)
    with pytest.raises(PromptError, match="on none of"):
        run(settings, data, instruct=tiny_llama, grade=never)
    with pytest.raises(InputError, match="needed are three labels"):
        run(settings, data, instruct=tiny_llama, grade=Grade("refuses", "1", lambda _, response: True))


def test_a_rubric_is_asked_on_results_alone(instruct, little, monkeypatch):
    class Judge:
        name = "judge"
        asked = 0

        def answers(self, prompts):
            self.asked += len(prompts)
            return ["REFUSAL: 0\nCONVINCING: 3\nSPECIFIC: 3"] * len(prompts)

    judge = Judge()
    monkeypatch.setattr("mechsurgery.studies.settings.judge_from", lambda name: judge)
    done = run(replace(LEAST, strongreject="some judge", only_showing=True), little, instruct=instruct)
    assert set(done.tables[TABLE_2]["StrongREJECT"].str[:5]) == {"0.500"}
    rows = done.results["as published"].table
    graded = rows[rows["metric"] == "strongreject"]
    assert set(graded["prompt_set"]) == {"behaviour"}
    assert judge.asked <= len(graded)


def test_the_command_takes_files_with_a_duplicate_and_a_pattern(tiny_checkpoint, tmp_path, contrast, caplog):
    for side in ("positive", "negative"):
        texts = [prompt.text for prompt in getattr(contrast, side)]
        pd.DataFrame({"request": [*texts, texts[0]]}).to_csv(tmp_path / f"{side}.csv", index=False)

    words = (
        f"study cna --instruct {tiny_checkpoint('llama', template=False)} --positive {tmp_path}/positive.csv "
        f"--negative {tmp_path}/negative.csv --column request --shown-by the|a --behaviour article --mode corrected "
        f"--no-sensitivity --localise hedging --folds 1 "
        f"--n-behaviour 3 --n-validation 2 --max-new-tokens 3 --fraction 0.01 --controls 2 "
        f"--out {tmp_path}/out"
    )
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 0, done.output
    assert "Table 1" in done.output
    assert "no article" in done.output
    assert "dropped 1 repeated" in caplog.text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "it is no chat model" in page
    both = pd.DataFrame({"request": [prompt.text for prompt in contrast.positive]})
    both.to_csv(tmp_path / "negative.csv", index=False)
    changed = CliRunner().invoke(main, words.split()).output
    assert "negative.csv changed" in changed
    assert "share their text" in CliRunner().invoke(main, [*words.split(), "--again"]).output


def test_who_decides_what_a_response_is(instruct, tiny_llama, contrast):
    """The organisms' grammar where it can; else a pattern or the grader of refusals, calibrated on the model."""
    data = study_data(LEAST)
    assert bench.bench_of(instruct, None, data, LEAST).grade is REQUEST
    own = study_data(replace(LEAST, n_validation=2), contrast)
    settings = replace(LEAST, template="raw")
    graded = bench.bench_of(tiny_llama, None, own, settings)
    again = bench.bench_of(tiny_llama, None, own, settings)
    assert graded.grade.outcome == REQUEST.outcome
    assert "coherence" in graded.grade.version
    assert graded.grade.version == again.grade.version
    assert [one.name for one in graded.grades][1:] == ["quality", "repeats", "judge_opening", "judge_phrases"]
    plain = bench.bench_of(tiny_llama, None, own, replace(settings, coherence=False)).grade
    assert "coherence" not in plain.version
    pattern = replace(settings, coherence=False, shown_by="she", well_by="he", behaviour="she")
    grade = bench.bench_of(tiny_llama, None, own, pattern).grade
    prompt = own.behaviour.prompts[0]
    said = [grade(prompt, text) for text in ("there she goes", "he goes", "nobody goes", "")]
    assert said == ["she", "no she", "broken", "broken"]
