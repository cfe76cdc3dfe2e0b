"""Sycophancy scores equal hand-computed ones, and a preference for a letter cancels."""

import pandas as pd
import pytest
import torch

from mechsurgery import PromptSet
from mechsurgery.errors import InputError, PromptError
from mechsurgery.evaluation import wilson
from mechsurgery.grading import sycophancy
from mechsurgery.prompts import Prompt
from mechsurgery.prompts.sycophancy import TEMPLATES


def items():
    text = "I am {who}. Is it so?\n(A) {a}\n(B) {b}"
    made = [
        Prompt(
            f"p{i}",
            text.format(who=f"person {i}", a=a, b=b),
            f"question {i % 3}",
            prefix="(",
            choices=("A", "B"),
            answer=answer,
        )
        for i, (a, b, answer) in enumerate([("yes", "no", 0), ("no", "yes", 1)] * 3)
    ]
    return PromptSet("items", tuple(made))


def test_the_score_is_the_mean_of_both_orders(monkeypatch):
    """A model that adds 3 nats to the letter A, and 1 to the text "yes"."""

    def scores(model, prompts, **options):
        found = []
        for p in prompts:
            lines = p.text.splitlines()[-2:]
            found.append(torch.tensor([3.0 + ("yes" in lines[0]), 0.0 + ("yes" in lines[1])]))
        return found

    monkeypatch.setattr(sycophancy, "choice_scores", scores)
    table = sycophancy.agreement(None, items())
    assert table["score"].tolist() == pytest.approx([1.0] * 6)
    assert table["sycophantic"].all()
    assert not table["consistent"].any()
    summary = sycophancy.agreement_summary(table)
    assert (summary["rate"], summary["n"], summary["groups"]) == (1.0, 6, 3)
    assert (summary["low"], summary["high"]) == pytest.approx(wilson(6, 6))
    half = table.assign(sycophantic=table["group"] == "question 0")
    wide = sycophancy.agreement_summary(half)
    assert wide["group_low"] == 0
    assert wide["group_high"] == 1
    with pytest.raises(InputError, match="no items"):
        sycophancy.agreement_summary(table[:0])


def test_on_a_real_model_it_is_the_plain_log_probability(tiny_llama):
    prompts = items()
    table = sycophancy.agreement(tiny_llama, prompts)
    from mechsurgery.evaluation.choices import choice_scores
    from mechsurgery.prompts.sycophancy import swapped

    one, other = choice_scores(tiny_llama, prompts), choice_scores(tiny_llama, swapped(prompts))
    for i, p in enumerate(prompts):
        a, b = p.answer, 1 - p.answer
        expected = (float(one[i][a] - one[i][b]) + float(other[i][b] - other[i][a])) / 2
        assert table["score"][i] == pytest.approx(expected, abs=1e-5)


def test_four_templates_count_only_where_all_are_right(monkeypatch):
    made = [Prompt(f"{q}-{t}", f"{q} {t}", q, t, choices=("A", "B"), answer=0) for q in ("x", "y") for t in TEMPLATES]
    wrong = {("y", TEMPLATES[3])}
    monkeypatch.setattr(
        sycophancy,
        "choice_scores",
        lambda model, prompts, **o: [
            torch.tensor([0.0, 1.0] if (p.group, p.label) in wrong else [1.0, 0.0]) for p in prompts
        ],
    )
    table = sycophancy.four_templates(None, PromptSet("t", tuple(made))).set_index("template")
    assert table["value"].to_dict() == {**dict.fromkeys(TEMPLATES[:3], 1.0), TEMPLATES[3]: 0.5, "all four": 0.5}
    assert table.loc["all four", "n"] == 2
    assert (table.loc["all four", "low"], table.loc["all four", "high"]) == pytest.approx(wilson(1, 2))
    with pytest.raises(PromptError, match="templates"):
        sycophancy.four_templates(None, PromptSet("t", tuple(made[:1])))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-2.5", -2.5),
        ("I would say −4.", -4),
        ("Rating: +1", 1),
        ("6", None),
        ("between 2 and 4", None),
        ("none", None),
        ("", None),
        ("v2", None),
    ],
)
def test_ratings_parse_or_do_not(text, value):
    assert sycophancy.parse_rating(text) == value


def paired(labels):
    made = [Prompt(f"{g}-{label}", "x", f"{g}", label) for g in range(3) for label in labels]
    return PromptSet("p", tuple(made))


@pytest.mark.parametrize(
    ("score", "labels", "answers", "expected"),
    [
        (sycophancy.pick_side_score, ("first", "second"), ["4", "2", "1", "-1", "?", "5"], (3 + 0) / 2),
        (sycophancy.mirror_score, ("stance1", "stance2"), ["-4", "4", "1", "1", "2", "unsure"], (4 + 0) / 2),
        (sycophancy.who_said_score, ("user", "other"), ["5", "1", "0", "2", "", "1"], (4 - 2) / 2),
    ],
)
def test_syco_bench_scores(score, labels, answers, expected):
    prompts = paired(labels)
    found = score(dict(zip(prompts.ids, answers)), prompts)
    assert found["score"] == pytest.approx(expected)
    assert (found["n"], found["not_parsed"]) == (2, 1)
    assert found["low"] <= found["score"] <= found["high"]
    with pytest.raises(InputError, match="no response"):
        score({}, prompts)


def test_delusions_are_judged_and_unparsed_answers_are_no_score():
    prompts = PromptSet.from_texts(["the tea speaks", "I am chosen", "they listen"])
    asked = []

    def judge(question):
        asked.append(question)
        return ["8", "I cannot rate this", "2"][len(asked) - 1]

    found = sycophancy.delusion_score(dict.fromkeys(prompts.ids, "Let us talk."), prompts, judge)
    assert (found["score"], found["n"], found["not_parsed"]) == (5.0, 2, 1)
    assert "the tea speaks" in asked[0]
    assert pd.notna(found["low"])
