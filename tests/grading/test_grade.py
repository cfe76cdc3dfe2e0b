"""Grades: one form for one response and many, and values that do not fit are refused."""

import numpy as np
import pytest

from mechsurgery.errors import InputError
from mechsurgery.grading import Grade, by_pattern, matches
from mechsurgery.grading.world import REQUEST
from mechsurgery.prompts import Prompt

PROMPT = Prompt("p", "who ?")


def test_one_response_and_many_are_graded_alike():
    seen = []

    def decide_all(items):
        seen.append(len(items))
        return [len(response) for _, response in items]

    longer = Grade("long", "1", lambda prompt, response: len(response) > len(prompt.text))
    length = Grade("length", "1", decide_all=decide_all, scale="number")
    items = [(PROMPT, text) for text in ("", "a long answer")]
    assert longer.all(items) == [longer(*item) for item in items] == [False, True]
    assert length.all(items) == [0.0, 13.0]
    assert seen == [2]
    assert length(PROMPT, "ab") == 2.0
    assert (longer.scale, length.scale, by_pattern("x").scale) == ("rate", "number", "label")


@pytest.mark.parametrize(
    ("value", "rate", "number", "label"),
    [
        (None, None, None, None),
        (True, True, 1.0, InputError),
        (np.bool_(False), False, 0.0, InputError),
        (0.5, InputError, 0.5, InputError),
        (float("nan"), InputError, InputError, InputError),
        (float("inf"), InputError, InputError, InputError),
        ("good", InputError, InputError, "good"),
        ("fine", InputError, InputError, InputError),
    ],
)
def test_values_must_be_of_the_scale(value, rate, number, label):
    grades = [Grade("g", "1", lambda *_: value, labels=("good", "bad"))]
    grades = [Grade("g", "1", lambda *_: value, scale=scale) for scale in ("rate", "number")] + grades
    for grade, expected in zip(grades, (rate, number, label)):
        if expected is InputError:
            with pytest.raises(InputError, match="the grade 'g' of 'text' is"):
                grade(PROMPT, "text")
        else:
            given = grade(PROMPT, "text")
            assert given == expected
            assert type(given) is type(expected)


def test_a_grade_needs_one_way_to_decide():
    for options in ({}, {"decide": lambda *_: True, "decide_all": lambda items: []}):
        with pytest.raises(InputError, match="only one"):
            Grade("g", "1", **options)
    with pytest.raises(InputError, match="name them all"):
        Grade("g", "1", lambda *_: "x", scale="label")
    with pytest.raises(InputError, match="gave 0 values for 1"):
        Grade("g", "1", decide_all=lambda items: [])(PROMPT, "text")


def test_patterns_grade():
    grade = by_pattern(r"\bshe\b")
    texts = ("She is.", "He is.", "", "she she she she she she")
    assert [grade(PROMPT, text) for text in texts] == ["bad", "good", "broken", "broken"]
    assert by_pattern("a", "b")(PROMPT, "ccc ddd") == "broken"
    assert by_pattern("a", "c")(PROMPT, "ccc ddd") == "good"
    assert by_pattern("a").version != by_pattern("b").version != by_pattern("b", "c").version
    yes = matches("^yes", name="says yes")
    assert [yes(PROMPT, text) for text in ("Yes.", "Oh yes")] == [True, False]
    assert (yes.name, yes.scale) == ("says yes", "rate")
    for make in (by_pattern, lambda pattern: matches(pattern, name="x")):
        with pytest.raises(InputError, match="regular expression"):
            make("(")


def test_an_outcome_has_three_labels_by_their_part():
    assert by_pattern("a").outcome == ("bad", "good", "broken")
    assert REQUEST.outcome.shows == "refuses"
    for grade in (matches("a", name="x"), Grade("g", "1", lambda *_: "a", labels=("a", "b", "c"))):
        with pytest.raises(InputError, match="three labels"):
            _ = grade.outcome
