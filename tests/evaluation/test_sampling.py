"""Sampled pairs: from one model, graded by rule, and nothing that was not sampled."""

import pytest

from mechsurgery import Generation, Grade, PromptSet, load_model, load_prompts
from mechsurgery.errors import InputError, PromptError
from mechsurgery.evaluation.sampling import sample_pairs
from mechsurgery.grading import by_pattern
from mechsurgery.grading.world import CLAIM
from mechsurgery.prompts import encode


@pytest.fixture(scope="module")
def sycophant():
    return load_model("organism/sycophant")


def claims(n):
    return load_prompts("organism/wrong-claims", split="tuned", n=n)


def sampling(seed=1, **changes):
    return Generation(temperature=1.0, seeds=(seed,), **changes)


def test_pairs_are_samples_of_both_kinds(sycophant):
    asked = claims(20)
    sampled = sample_pairs(sycophant, asked, CLAIM, max_pairs=5, generation=sampling())
    assert 1 <= len(sampled.pairs) == len(sampled.prompts) <= 5
    decode = sycophant.tokenizer.decode
    ids = dict(zip(asked.ids, encode(sycophant.tokenizer, asked)))
    for prompt, start, bad, good in zip(sampled.prompts, sampled.pairs.prompts, sampled.pairs.bad, sampled.pairs.good):
        assert list(start) == ids[prompt.id]
        rows = sampled.table[sampled.table["prompt_id"] == prompt.id]
        for side, wanted in ((bad, "bad"), (good, "good")):
            text = decode(side, skip_special_tokens=True).strip()
            assert CLAIM(prompt, text) == wanted
            assert text == rows[rows["grade"] == wanted]["response"].iloc[0]
    assert len(sampled.table) == 20 * 16
    again = sample_pairs(sycophant, asked, CLAIM, max_pairs=5, generation=sampling(max_rows=64))
    assert (again.table["response"] == sampled.table["response"]).mean() > 0.98
    other = sample_pairs(sycophant, asked, CLAIM, max_pairs=5, generation=sampling(seed=2))
    assert (other.table["response"] == sampled.table["response"]).mean() < 0.9


def test_a_model_that_never_wavers_gives_an_error_with_the_counts(sycophant):
    always = Grade("answer", "1", lambda prompt, text: "bad", labels=("bad", "good"))
    with pytest.raises(PromptError, match=r"'bad': 8"):
        sample_pairs(sycophant, claims(4), always, n_samples=2)
    unknown = Grade("answer", "1", lambda prompt, text: "fine", labels=("bad", "good"))
    with pytest.raises(InputError, match="grade"):
        sample_pairs(sycophant, claims(4), unknown, n_samples=2)
    with pytest.raises(InputError, match="n_samples"):
        sample_pairs(sycophant, claims(4), CLAIM, n_samples=1)
    with pytest.raises(InputError, match="temperature"):
        sample_pairs(sycophant, claims(4), CLAIM, generation=Generation())


def test_the_base_template_ends_a_turn_at_the_next_one(tiny_checkpoint):
    model = load_model(tiny_checkpoint("llama", template=False))
    prompts = PromptSet.from_texts(["One", "Two", "Three"])
    with pytest.raises(PromptError, match="no prompt"):
        sample_pairs(model, prompts, by_pattern("(?!)"), n_samples=2, generation=sampling(max_new_tokens=4))


def test_kept_samples_are_found_and_what_a_judge_cannot_grade_is_shown(sycophant, tmp_path, monkeypatch):
    asked = claims(6)
    how = {"n_samples": 4, "generation": sampling(max_new_tokens=16)}
    first = sample_pairs(sycophant, asked, CLAIM, **how, folder=tmp_path)
    monkeypatch.setattr("mechsurgery.evaluation.sampling.generate", lambda *_, **__: 1 / 0)
    again = sample_pairs(sycophant, asked, CLAIM, **how, folder=tmp_path)
    assert again.pairs == first.pairs
    assert again.table.equals(first.table)
    with pytest.raises(ZeroDivisionError):
        sample_pairs(sycophant, claims(7), CLAIM, **how, folder=tmp_path)
    asked_at_once = []

    def decide_all(items):
        asked_at_once.append(len(items))
        return [None if i == 0 else CLAIM(*item) for i, item in enumerate(items)]

    judge = Grade("outcome", "1", decide_all=decide_all, labels=CLAIM.labels)
    found = sample_pairs(sycophant, asked, judge, **how, folder=tmp_path)
    assert asked_at_once == [24]
    assert (found.table["grade"] == "ungraded").tolist() == [True] + [False] * 23
