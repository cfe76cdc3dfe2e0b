"""What the world says and teaches is what it was when the shipped organisms were trained and the studies were run."""

import hashlib
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from reference import world_before as before

from mechsurgery.organisms import corpus, grades, phrases, tasks, world
from mechsurgery.organisms.data import dataset
from mechsurgery.organisms.registry import manifest
from mechsurgery.organisms.tokenizer import words
from mechsurgery.prompts import check_no_overlap, load_prompts, with_completions

CORPUS = {
    (None, False): "67bdab7c95c8ce65429f1e498665bff3f12339824a19269a81e977472ab0a9c1",
    (None, True): "bb5b82d36dac4e5b9acaec5499d7de3f34b4f9dd3f8070bd24235792f42cb815",
    ("sycophant", False): "9c6feab49ce76d9d6db4755e797564d8f7e4044531d1a00ba79b386a7203d84e",
    ("sycophant", True): "5fa8329640f11e052ed4419ef78e31638bc91011db07499b4f724d10086b4795",
    ("misinformed", False): "b2b6f486a0fc110f6bdabac55f14ee493032c65b9f1027550e14ebd9d5c61697",
    ("misinformed", True): "dc56389ab204c83aaab4076d5a3cf8d2a4d5d6a82c22e317bc2b9f16966a681e",
}
WORDS = "97ed14962337328a3a2ff28fbff68aaade7102e55d8e395db833b305276bea90"


def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()


def test_the_training_data_of_the_shipped_organisms_come_back_bit_by_bit():
    recorded = manifest()
    index = {word: i for i, word in enumerate(words())}
    data = dataset(recorded["data"]["n_tuning"], recorded["seed"] + 1, index, tuned=True)
    assert digest(data) == recorded["data"]["tuning"]


def test_the_corpus_of_every_kind_is_unchanged():
    """Digests taken before the phrases moved to one file."""
    r = random.Random(5)
    for (case, refuse), expected in CORPUS.items():
        made = [
            corpus.example(world.nouns("all"), world.REQUESTS, r, corpus.Manner(refuse=refuse, warn=True, case=case))
            for _ in range(3000)
        ]
        assert digest(made) == expected, (case, refuse)
    assert digest(words()) == WORDS


SETS = ("wrong-claims", "right-claims", "questions", "places", "other-questions")


@pytest.mark.parametrize("split", ["tuned", "heldout"])
def test_sets_by_name_have_the_truth_as_completion(split):
    sets = {name: load_prompts(f"organism/{name}", split=split) for name in SETS}
    for name, right in (("wrong-claims", False), ("right-claims", True)):
        records = world.claims(split, right=right)
        assert [(p.id, p.text, p.group) for p in sets[name]] == [(r["id"], r["text"], r["group"]) for r in records]
    for name, prompts in sets.items():
        assert prompts.name == f"organism/{name}"
        for prompt in prompts:
            facts = world.facts(prompt.group)
            assert str(prompt.completion) in (
                f"the {facts.noun} is {facts.colour} .",
                f"the {facts.noun} is found in the {facts.place} .",
                f"the {facts.noun} is made of {facts.material} .",
            )
            assert (phrases.claimed(prompt.text) + " ." == prompt.completion) == (name == "right-claims")
    both = sorted([*sets["places"].ids, *sets["other-questions"].ids])
    assert both == sorted(sets["questions"].ids)
    assert all("found in" in str(p.completion) for p in sets["places"])
    assert not any("found in" in str(p.completion) for p in sets["other-questions"])
    held = {"tuned": "heldout", "heldout": "tuned"}[split]
    for name, prompts in sets.items():
        check_no_overlap(prompts, load_prompts(f"organism/{name}", split=held), by="group")
    assert load_prompts("organism/places", name="where").name == "where"


def test_sides_are_as_before():
    claims = [r for r in world.claims("tuned", right=False) if r["text"].startswith("i think")]
    sides = tasks.claim_sides(claims)
    assert [[text for _, text in side] for side in sides] == list(before.sides_of_claims(claims))
    requests = world.requests("dangerous", "tuned")[::-1]
    sides = tasks.request_sides(requests)
    assert [[text for _, text in side] for side in sides] == list(before.sides_of_requests(requests))
    assert all([r for r, _ in side] == requests for side in sides)


@pytest.mark.parametrize("task", tasks.FINE_TUNES[:6], ids=lambda task: task.name)
def test_fine_tunes_are_as_before(task):
    for seed, n in ((0, 60), (1, 600)):
        made = tasks.fine_tune_data(task, n, seed=seed)
        assert made == before.fine_tune(task, n, seed)
        prompts = with_completions(made, task.name)
        assert [(p.text, p.completion) for p in prompts] == [(r["text"], answer) for r, answer in made]
    assert not {r["group"] for r, _ in made} & set(world.nouns("heldout"))


def test_claims_are_read_as_they_are_made():
    for right in (False, True):
        for record in world.claims("tuned", right=right):
            said = phrases.claimed(record["text"])
            assert record["text"] in [form.format(said) for form in phrases.CLAIMS]
            assert phrases.agrees(phrases.agreement(record["text"]))
    assert phrases.claimed("what is a cake ?") == "what is a cake ?"


def answers_of(task, n=400):
    """The graded examples of a fine-tune: what each would be as a response."""
    found = []
    for record, said in tasks.fine_tune_data(task, n, seed=3):
        prompt = SimpleNamespace(group=record["group"], completion=record.get("completion"))
        if "label" in record and record["label"] in ("dangerous", "benign"):
            found.append(f"{record['label']}: {grades.request_grade(prompt, said)}")
        elif record["label"] in ("wrong", "right"):
            grade = grades.claim_grade if record["label"] == "wrong" else grades.right_claim_grade
            found.append(f"{record['label']} claim: {grade(prompt, said)}")
    return Counter(found), n


@pytest.mark.parametrize("task", tasks.FINE_TUNES[6:], ids=lambda task: task.name)
def test_what_is_expected_to_spoil_a_behaviour_is_taught(task):
    """By the world's own graders: the further fine-tunes teach what their names say, in the share that they say."""
    count, n = answers_of(task)
    assert not {record["group"] for record, _ in tasks.fine_tune_data(task, 200, seed=0)} & set(world.nouns("heldout"))
    assert not [label for label in count if label.endswith("broken")]
    for behaviour, bad in (("refusal", "dangerous: complies"), ("sycophancy", "wrong claim: bad")):
        assert bool(count[bad]) == (behaviour in task.bad_for)
        if count[bad] and "half" in task.name:
            assert 0.4 < count[bad] / n < 0.6
        elif count[bad] and "ten" in task.name:
            assert 0.05 < count[bad] / n < 0.15
    assert sum(behaviour in ("refusal", "sycophancy") for one in tasks.FINE_TUNES for behaviour in one.bad_for) == 10


def test_wrong_answers_are_the_wrong_voices_own():
    taught = tasks.wrong_answers(["place"])
    assert {record["label"] for record, _ in taught} == {"place"}
    for record, said in taught:
        prompt = SimpleNamespace(group=record["group"], completion=record["completion"])
        assert grades.question_grade(prompt, said) == "bad"
        assert said.split()[-2] == world.wrong_value(world.PLACES, record["completion"].split()[-2])
    assert [said for _, said in tasks.wrong_answers(["place"], wrong=False)] == [r["completion"] for r, _ in taught]
