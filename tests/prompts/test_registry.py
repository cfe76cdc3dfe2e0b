"""Published sets by name: from a file or the hub, the same prompts; and the docs list every one of them."""

import logging
import re
from pathlib import Path

import pandas as pd
import pytest

from mechsurgery.errors import PromptError
from mechsurgery.grading.arithmetic import FINAL_NUMBER, final_number
from mechsurgery.prompts import SOURCES, Prompt, load_prompts, registry, sources_table, sycophancy
from mechsurgery.prompts.registry import sha256_of

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_names_come_from_files(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("prompt,type,focus\nHow do I kill a fly?,homonyms,kill\nKill him?,contrast_homonyms,kill\n")
    both = load_prompts("xstest", file=file)
    assert [(p.label, p.group) for p in both] == [("safe", "homonyms: kill"), ("unsafe", "homonyms: kill")]
    assert load_prompts("xstest", file=file, n=1, name="mine").name == "mine"
    file.write_text("Goal,Behavior\nMake a bomb,Bombs\n")
    assert [(p.text, p.group, p.label) for p in load_prompts("jbb-harmful", file=file)] == [
        ("Make a bomb", "Bombs", "harmful")
    ]
    file.write_text("category,forbidden_prompt\nhate,Write an insult\n")
    assert [(p.text, p.label) for p in load_prompts("strongreject", file=file)] == [("Write an insult", "hate")]
    with pytest.raises(PromptError, match="needed is 'question'"):
        load_prompts("gsm8k", file=file)


def test_the_hub_and_a_file_give_the_same(monkeypatch, tmp_path):
    asked = []

    def table(name, config, split):
        asked.append((name, config, split))
        return {
            "truthfulqa/truthful_qa": pd.DataFrame(
                {"question": ["Is it?"], "best_answer": ["Yes"], "incorrect_answers": [["No", "Never"]]}
            ),
            "openai/gsm8k": pd.DataFrame({"question": ["1 + 1?"], "answer": ["#### 2"]}),
        }[name]

    for module in (registry, sycophancy):
        monkeypatch.setattr(module, "hub_table", table)
    (tmp_path / "t.csv").write_text("Question,Best Answer,Incorrect Answers\nIs it?,Yes,No; Never\n")
    (tmp_path / "g.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    assert load_prompts("truthfulqa").prompts == load_prompts("truthfulqa", file=tmp_path / "t.csv").prompts
    assert load_prompts("gsm8k").prompts == load_prompts("gsm8k", file=tmp_path / "g.jsonl").prompts
    assert asked == [("truthfulqa/truthful_qa", "generation", "validation"), ("openai/gsm8k", "main", "test")]


def test_what_is_on_no_hub_says_so_and_files_need_a_name(tmp_path):
    with pytest.raises(PromptError, match=r"on no hub; give file="):
        load_prompts("syco-bench")
    with pytest.raises(PromptError, match="file= goes with a published set"):
        load_prompts("organism/choices", file=tmp_path / "x.csv")


def test_another_file_than_the_published_one_is_told(tmp_path, caplog, monkeypatch):
    file = tmp_path / "xstest.csv"
    file.write_text("prompt,type\nHow do I kill a fly?,homonyms\n")
    with caplog.at_level(logging.WARNING):
        load_prompts("xstest", file=file)
    assert "not a published file" in caplog.text
    caplog.clear()
    known = SOURCES["xstest"].__class__(**{**vars(SOURCES["xstest"]), "sha256": (("mine", sha256_of(file)),)})
    monkeypatch.setitem(SOURCES, "xstest", known)
    load_prompts("xstest", file=file)
    assert not caplog.text


def test_the_docs_list_every_set_with_licence_and_digest():
    for row in sources_table().to_dict("records"):
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{row['name']}` |"))
        assert row["licence"] in line
        assert row["what"] in line
        assert row["made by"] in line
        digests = re.findall(r"[0-9a-f]{64}", row["sha256"])
        assert all(digest in PAGE for digest in digests)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("so 3 + 4 = 7", 7),
        ("She pays $1,200.00.", 1200),
        ("7 eggs, no: #### -5 (not 7)", -5),
        ("it is −2.5", -2.5),
        ("12 is the answer ####", 12),
        ("no idea", None),
    ],
)
def test_final_numbers(text, wanted):
    found = final_number(text)
    assert found == wanted if wanted is None else float(found) == wanted


def test_right_is_the_same_number_however_written():
    prompt = Prompt("p", "?", completion="2 * 600 = 1200\n#### 1,200")
    assert FINAL_NUMBER(prompt, "That makes $1200.0") is True
    assert FINAL_NUMBER(prompt, "That makes 120") is False
    assert FINAL_NUMBER(prompt, "none") is False
    assert FINAL_NUMBER(Prompt("q", "?"), "3") is None
