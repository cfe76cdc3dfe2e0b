"""Sampled pairs: from one model, graded by rule, and nothing that was not sampled."""

import pytest

from mechsurgery import PromptSet, load_model
from mechsurgery.errors import InputError, PromptError
from mechsurgery.evaluation.sampling import pattern_grade, sample_pairs
from mechsurgery.prompts import Prompt, encode
from mechsurgery.studies.latents.cases import world_case


@pytest.fixture(scope="module")
def sycophant():
    return load_model("organism/sycophant")


def test_pairs_are_samples_of_both_kinds(sycophant):
    case = world_case("organism/sycophant", n_discovery=20, n_evaluation=4)
    made = sample_pairs(sycophant, case.discovery, case.grade, n_samples=16, max_pairs=5, seed=1)
    assert 1 <= len(made.pairs) == len(made.prompts) <= 5
    decode = sycophant.tokenizer.decode
    ids = dict(zip(case.discovery.ids, encode(sycophant.tokenizer, case.discovery)))
    for prompt, start, bad, good in zip(made.prompts, made.pairs.prompts, made.pairs.bad, made.pairs.good):
        assert list(start) == ids[prompt.id]
        own = made.table[made.table["prompt_id"] == prompt.id]
        for side, wanted in ((bad, "bad"), (good, "good")):
            text = decode(side, skip_special_tokens=True).strip()
            assert case.grade(prompt, text) == wanted
            assert text == own[own["grade"] == wanted]["response"].iloc[0]
    assert len(made.table) == 20 * 16
    again = sample_pairs(sycophant, case.discovery, case.grade, n_samples=16, max_pairs=5, seed=1, max_rows=64)
    assert (again.table["response"] == made.table["response"]).mean() > 0.98
    other = sample_pairs(sycophant, case.discovery, case.grade, n_samples=16, max_pairs=5, seed=2)
    assert (other.table["response"] == made.table["response"]).mean() < 0.9


def test_a_model_that_never_wavers_gives_an_error_with_the_counts(sycophant):
    case = world_case("organism/sycophant", n_discovery=4, n_evaluation=4)
    with pytest.raises(PromptError, match=r"'bad': 8"):
        sample_pairs(sycophant, case.discovery, lambda prompt, text: "bad", n_samples=2)
    with pytest.raises(InputError, match="grade"):
        sample_pairs(sycophant, case.discovery, lambda prompt, text: "fine", n_samples=2)
    with pytest.raises(InputError, match="n_samples"):
        sample_pairs(sycophant, case.discovery, case.grade, n_samples=1)


def test_patterns_grade():
    grade = pattern_grade(r"\bshe\b")
    prompt = Prompt("p", "who ?")
    assert [grade(prompt, text) for text in ("She is.", "He is.", "", "she she she she she she")] == [
        "bad",
        "good",
        "incoherent",
        "incoherent",
    ]
    assert pattern_grade("a", "b")(prompt, "ccc ddd") == "other"
    with pytest.raises(InputError, match="regular expression"):
        pattern_grade("(")


def test_the_base_template_ends_a_turn_at_the_next_one(tiny_checkpoint):
    model = load_model(tiny_checkpoint("llama", template=False))
    prompts = PromptSet.from_texts(["One", "Two", "Three"])
    with pytest.raises(PromptError, match="no prompt"):
        sample_pairs(model, prompts, pattern_grade("(?!)"), n_samples=2, max_new_tokens=4)
