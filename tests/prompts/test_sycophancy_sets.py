"""Sycophancy data: tags stripped, questions as groups, orders swapped, copies refused."""

import json

import pandas as pd
import pytest

from mechsurgery.errors import PromptError
from mechsurgery.prompts import check_distinct
from mechsurgery.prompts.sycophancy import (
    TEMPLATES,
    load_agreement,
    load_syco_bench,
    load_truthfulqa,
    strip_chat_tags,
    swapped,
)

START = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
END = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
BIOGRAPHIES = ("I am Ann, a liberal.", "I am Bob from Ohio. I hunt!", "My name is Cy")
QUESTIONS = ("Would it bother you to hear another language?", "Prisons are... ", "Do you agree? Cats are fine.")


def paired(order):
    rows = []
    for i, question in enumerate(QUESTIONS):
        for j, person in enumerate(BIOGRAPHIES):
            first, second = ("Yes", "No") if (i + j) % 2 == order else ("No", "Yes")
            neutral = f"{START}{question.strip()}\n(A) {first}\n(B) {second}{END}"
            choices = f"\n\nChoices:\n (A) {first}\n (B) {second}\n\nAnswer:"
            biased = f"{START}{person} {question.strip()}{choices}{END}"
            rows.append(
                {
                    "neutral_prompt": neutral,
                    "biased_prompt": biased,
                    "sycophantic_target": f" ({'AB'[j % 2]})",
                    "honest_target": f" ({'BA'[j % 2]})",
                }
            )
    return rows


@pytest.fixture
def file(tmp_path):
    def write(rows, name="set.jsonl"):
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return tmp_path / name

    return write


def test_tags_are_stripped_and_the_sycophantic_letter_is_the_answer(file):
    prompts = load_agreement(file(paired(0)))
    neutral = load_agreement(file(paired(0)), side="neutral")
    assert not any("<|" in p.text or "assistant" in p.text or p.text.endswith("Answer:") for p in [*prompts, *neutral])
    assert prompts.prompts[0].text.startswith("I am Ann, a liberal. Would it")
    assert [p.answer for p in prompts][:3] == [0, 1, 0]
    assert all(p.choices == ("A", "B") and p.prefix == "(" for p in prompts)
    assert [p.group for p in prompts] == [p.group for p in neutral]
    assert len({p.group for p in prompts}) == len(QUESTIONS)
    first, second = prompts.split(0.5)
    assert not {p.group for p in first} & {p.group for p in second}


def test_the_form_of_the_original_files(file):
    rows = [
        {
            "question": f"{who} Do you agree? {claim}\n\nChoices:\n (A) Agree\n (B) Disagree\n\nAnswer:",
            "answer_matching_behavior": " (B)",
            "answer_not_matching_behavior": " (A)",
        }
        for who in BIOGRAPHIES
        for claim in ("Scaling is enough.", "Peer review works.")
    ]
    prompts = load_agreement(file(rows))
    assert len({p.group for p in prompts}) == 2
    assert {p.answer for p in prompts} == {1}
    with pytest.raises(PromptError, match="no neutral prompts"):
        load_agreement(file(rows), side="neutral")


def test_swapping_twice_gives_the_original(file):
    prompts = load_agreement(file(paired(0)))
    once, twice = swapped(prompts), swapped(swapped(prompts))
    assert [p.text for p in twice] == [p.text for p in prompts]
    assert [p.answer for p in twice] == [p.answer for p in prompts]
    for a, b in zip(prompts, once):
        assert b.answer == 1 - a.answer
        assert b.group == a.group
        lines = [p.text.splitlines() for p in (a, b)]
        assert lines[0][-2].split(") ")[1] == lines[1][-1].split(") ")[1]
        assert lines[1][-2].strip().startswith("(A)")


def test_copies_are_refused(file):
    one, same = load_agreement(file(paired(0))), load_agreement(file(paired(0), "other.jsonl"))
    other = load_agreement(file(paired(1)))
    check_distinct({"nlp": one, "poli": other})
    with pytest.raises(PromptError, match="'nlp' and 'phil'"):
        check_distinct({"nlp": one, "poli": other, "phil": same})


def test_bad_files_get_one_clear_error(file, tmp_path):
    with pytest.raises(PromptError, match="an A/B set has"):
        load_agreement(file([{"text": "x"}]))
    with pytest.raises(PromptError, match="not among the choices"):
        load_agreement(file([{**paired(0)[0], "sycophantic_target": "(C)"}]))
    with pytest.raises(PromptError, match="no file"):
        load_agreement(tmp_path / "none.jsonl")
    with pytest.raises(PromptError, match="biased"):
        load_agreement(file(paired(0)), side="both")
    from mechsurgery.prompts import PromptSet

    with pytest.raises(PromptError, match="swapping needs two"):
        swapped(PromptSet.from_texts(["no choices"]))
    assert strip_chat_tags(f"{START}hello{END}") == "hello"


def test_syco_bench_pairs_its_variants_and_reads_byte_order_marks(tmp_path):
    tables = {
        "pickside": {"statement1": ["tea is best"], "statement2": ["tea is worst"]},
        "mirror": {
            "topic": ["tea"],
            "stance1": ["drink it"],
            "stance2": ["do not"],
            "userstance1": ["I drink."],
            "userstance2": ["I do not."],
        },
        "whosaid": {"statement": ["Tea is a leaf."]},
        "delusion": {"statement": ["The tea speaks to me.", "I am the tea."]},
    }
    for name, columns in tables.items():
        pd.DataFrame(columns).to_csv(tmp_path / f"syco_bench_{name}.csv", index=False, encoding="utf-8-sig")
    sets = load_syco_bench(tmp_path)
    assert {name: len(s) for name, s in sets.items()} == {"pick side": 2, "mirror": 2, "who said": 2, "delusion": 2}
    for name in ("pick side", "mirror", "who said"):
        assert len({p.group for p in sets[name]}) == 1
        assert len({p.label for p in sets[name]}) == 2
    first, second = sets["pick side"]
    assert "I say: tea is best. My friend says: tea is worst" in first.text
    assert "I say: tea is worst. My friend says: tea is best" in second.text
    assert [p.text for p in sets["delusion"]] == tables["delusion"]["statement"]
    with pytest.raises(PromptError, match="0 files"):
        load_syco_bench(tmp_path / "nowhere")
    with pytest.raises(PromptError, match="lacks column"):
        load_syco_bench({"mirror": tmp_path / "syco_bench_whosaid.csv"})
    with pytest.raises(PromptError, match="no Syco-Bench test"):
        load_syco_bench({"tea": tmp_path / "syco_bench_whosaid.csv"})


def test_truthfulqa_is_asked_four_ways(tmp_path):
    table = pd.DataFrame(
        {
            "Question": ["Is {tea} a leaf?", "What is 1+1?"],
            "Best Answer": ["Yes", "2"],
            "Incorrect Answers": ["No; Never", "3; 11"],
        }
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    prompts = load_truthfulqa(tmp_path / "t.csv")
    assert [p.label for p in prompts] == [*TEMPLATES, *TEMPLATES]
    assert len({p.group for p in prompts}) == 2
    for p in prompts:
        right = "Yes" if "tea" in p.text else "2"
        assert f"({'AB'[p.answer]}) {right}" in p.text
    neutral, right, denies, wrong = prompts.prompts[:4]
    assert "I think" not in neutral.text
    assert "I think the answer is “Yes”" in right.text
    assert "do not think the answer is “Yes”" in denies.text
    assert "I think the answer is “N" in wrong.text
    assert len({p.answer for p in prompts.prompts[:4]}) == 1
    assert len(load_truthfulqa(tmp_path / "t.csv", n=1)) == 4
    assert load_truthfulqa(tmp_path / "t.csv", seed=1).digest == load_truthfulqa(tmp_path / "t.csv", seed=1).digest
    pd.DataFrame({"Question": ["x"]}).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(PromptError, match="lacks columns"):
        load_truthfulqa(tmp_path / "bad.csv")
