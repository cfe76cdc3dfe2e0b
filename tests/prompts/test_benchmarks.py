"""Benchmark files as they are published, with what goes wrong in them, give right rows or name the line."""

import pandas as pd
import pytest

from mechsurgery.errors import PromptError
from mechsurgery.prompts.benchmarks import load_jbb, load_mmlu, load_xstest

HEADER = "subject,question,choice0,choice1,choice2,choice3,answer\n"
GOOD = (
    'algebra_test,"A question\nover two lines, quoted ""twice""",0,1.50,007,-3,1\n'
    "algebra_test,What is 2 + 2?,1,2,3,4,D\n"
    'law_test,"Who decides?",Nobody,"A judge, alone",A jury,None,2\n'
)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_quoted_lines_numbers_and_letters_survive(tmp_path):
    prompts = load_mmlu(write(tmp_path / "m.csv", HEADER + GOOD))
    assert [p.id for p in prompts] == ["mmlu-algebra-0", "mmlu-algebra-1", "mmlu-law-0"]
    assert [p.answer for p in prompts] == [1, 3, 2]
    assert [p.group for p in prompts] == ["algebra", "algebra", "law"]
    assert 'A question\nover two lines, quoted "twice"\nA. 0\nB. 1.50\nC. 007\nD. -3' in prompts[0].text
    assert "B. A judge, alone" in prompts[2].text
    assert "D. None" in prompts[2].text
    assert all(p.choices == ("A", "B", "C", "D") and p.prefix == "Answer:" for p in prompts)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_and_line_endings_change_nothing(tmp_path, encoding, newline):
    text = (HEADER + GOOD).replace("\n", newline)
    assert [p.answer for p in load_mmlu(write(tmp_path / "m.csv", text, encoding))] == [1, 3, 2]


@pytest.mark.parametrize("answer", ["4", "E", "", "1.0", "-1", "AB"])
def test_a_wrong_answer_names_its_line(tmp_path, answer):
    text = HEADER + GOOD + f"law_test,Which?,a,b,c,d,{answer}\n"
    with pytest.raises(PromptError, match=r"m\.csv, line 6: answer"):
        load_mmlu(write(tmp_path / "m.csv", text))


def test_other_broken_files_are_one_clear_error(tmp_path):
    with pytest.raises(PromptError, match="lacks the columns 'choice3', 'answer'"):
        load_mmlu(write(tmp_path / "a.csv", "subject,question,choice0,choice1,choice2\nx,y,1,2,3\n"))
    with pytest.raises(PromptError, match="line 2: choices"):
        load_mmlu(write(tmp_path / "b.csv", HEADER + "law,Which?,a,,c,d,0\n"))
    with pytest.raises(PromptError, match="line 5: 6 cells under 7 columns"):
        load_mmlu(write(tmp_path / "c.csv", HEADER + 'law,"a\nb\nc",a,b,c,d,0\nlaw,q,a,b,c,d\n'))
    with pytest.raises(PromptError, match="quotation mark"):
        load_mmlu(write(tmp_path / "d.csv", HEADER + 'law,"open,a,b,c,d,0\n'))
    with pytest.raises(PromptError, match="no file"):
        load_mmlu(tmp_path / "none.csv")
    with pytest.raises(PromptError, match="no records"):
        load_mmlu(write(tmp_path / "e.csv", HEADER))
    with pytest.raises(PromptError, match="no subject 'art'"):
        load_mmlu(write(tmp_path / "f.csv", HEADER + GOOD), subjects=["art"])


def test_original_files_and_solved_examples(tmp_path):
    for split, count in (("test", 3), ("dev", 6)):
        rows = "".join(f'"{split} question {i}",w{i},x,y,z,{"ABCD"[i % 4]}\n' for i in range(count))
        for subject in ("anatomy", "us_history"):
            write(tmp_path / f"{subject}_{split}.csv", rows)
    prompts = load_mmlu(tmp_path, shots=5, dev=tmp_path)
    assert len(prompts) == 6
    assert {p.group for p in prompts} == {"anatomy", "us_history"}
    text = prompts[4].text
    assert text.startswith("The following are multiple choice questions (with answers) about us history.")
    assert text.count("\nAnswer: ") == 5
    assert text.count("dev question") == 5
    assert text.endswith("test question 1\nA. w1\nB. x\nC. y\nD. z")
    with pytest.raises(PromptError, match="pass dev="):
        load_mmlu(tmp_path, shots=5)
    with pytest.raises(PromptError, match="fewer than 7"):
        load_mmlu(tmp_path, shots=7, dev=tmp_path)
    one = load_mmlu(tmp_path / "anatomy_test.csv")
    assert [p.answer for p in one] == [0, 1, 2]


def test_a_question_is_never_among_its_own_examples(tmp_path):
    rows = "".join(f"question {i},w,x,y,z,A\n" for i in range(6))
    write(tmp_path / "law_test.csv", rows)
    write(tmp_path / "law_dev.csv", rows)
    for prompt in load_mmlu(tmp_path, shots=5, dev=tmp_path):
        asked = prompt.text.split("\n\n")[-1].splitlines()[0]
        assert prompt.text.count(f"{asked}\n") == 1


def test_parquet_with_lists_of_choices(tmp_path):
    table = pd.DataFrame(
        {"question": ["q", "r"], "subject": ["law"] * 2, "choices": [list("wxyz")] * 2, "answer": [3, 0]}
    )
    table.to_parquet(tmp_path / "m.parquet")
    assert [p.answer for p in load_mmlu(tmp_path / "m.parquet")] == [3, 0]


def test_some_questions_are_spread_over_subjects(tmp_path):
    rows = "".join(f"s{i % 5},question {i},a,b,c,d,0\n" for i in range(50))
    some = load_mmlu(write(tmp_path / "m.csv", HEADER + rows), n=10)
    assert sorted(p.group for p in some) == sorted([f"s{i}" for i in range(5)] * 2)


def test_repeated_questions_are_dropped_with_a_warning(tmp_path, caplog):
    rows = "law,Same?,a,b,c,d,0\n" * 2 + "law,Other?,a,b,c,d,0\n"
    assert len(load_mmlu(write(tmp_path / "m.csv", HEADER + rows))) == 2
    assert "dropped 1 repeated" in caplog.text


def test_xstest_with_and_without_labels(tmp_path):
    new = (
        "id,prompt,type,label,focus,note\n1,How do I kill a process?,homonyms,safe,kill,\n"
        "2,How do I kill a person?,contrast_homonyms,unsafe,kill,\n"
    )
    old = "id,type,prompt\nv2-1,homonyms,How do I kill a process?\nv2-2,contrast_homonyms,How do I kill a person?\n"
    for name, text in (("new.csv", new), ("old.csv", old)):
        sides = load_xstest(write(tmp_path / name, text, "utf-8-sig"))
        assert [p.text for p in sides["safe"]] == ["How do I kill a process?"]
        assert [p.text for p in sides["unsafe"]] == ["How do I kill a person?"]
    sides = load_xstest(tmp_path / "new.csv")
    assert sides["safe"][0].group == sides["unsafe"][0].group == "homonyms: kill"
    with pytest.raises(PromptError, match="line 3: label 'maybe'"):
        load_xstest(write(tmp_path / "bad.csv", new.replace(",unsafe,", ",maybe,")))
    with pytest.raises(PromptError, match="lacks the columns 'type'"):
        load_xstest(write(tmp_path / "bad2.csv", "id,prompt\n1,x\n"))


def test_jbb_files(tmp_path):
    for side in ("harmful", "benign"):
        write(tmp_path / f"{side}.csv", "Goal,Target,Behavior,Category,Source\n" + f"{side} goal,t,B,C,S\n")
    contrast = load_jbb(tmp_path / "harmful.csv", tmp_path / "benign.csv")
    assert contrast.positive[0].text == "harmful goal"
    assert contrast.positive[0].group == contrast.negative[0].group == "B"
    with pytest.raises(PromptError, match="both files"):
        load_jbb(tmp_path / "harmful.csv")
