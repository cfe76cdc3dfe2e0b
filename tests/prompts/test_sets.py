"""Prompt sets: splits never share an item, duplicates are refused, nothing depends on order or process."""

import subprocess
import sys

import pandas as pd
import pytest

from mechsurgery import ContrastSet, PromptSet, load_contrast, load_prompts
from mechsurgery.errors import InputError, PromptError
from mechsurgery.prompts import Prompt, check_distinct, check_no_overlap, read_table, register_contrast, sources


def grouped(n_groups=10, each=3, name="set"):
    return PromptSet(
        name,
        tuple(
            Prompt(f"{g}-{i}", f"{name} question {i} about {g}", f"g{g}") for g in range(n_groups) for i in range(each)
        ),
    )


def test_a_split_shares_no_group_and_loses_nothing():
    prompts = grouped()
    a, b = prompts.split(0.3, seed=1)
    assert not set(a.groups) & set(b.groups)
    assert sorted(a.ids + b.ids) == sorted(prompts.ids)
    assert len(a.groups) == 3


def test_a_split_does_not_depend_on_order_or_process():
    prompts = grouped()
    turned = PromptSet("set", prompts.prompts[::-1])
    assert set(prompts.split(0.5, seed=2)[0].ids) == set(turned.split(0.5, seed=2)[0].ids)
    assert set(prompts.split(0.5, seed=3)[0].ids) != set(prompts.split(0.5, seed=2)[0].ids)
    code = (
        "from mechsurgery import PromptSet; p = PromptSet.from_texts([str(i) for i in range(9)]);"
        "print(p.split(seed=5)[0].ids, p.digest)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_a_group_on_both_sides_of_a_contrast_stays_together():
    contrast = ContrastSet("c", grouped(name="make"), grouped(name="like"))
    a, b = contrast.split(0.5, seed=0)
    for one, two in (
        (a.positive, b.negative),
        (a.positive, b.positive),
        (a.negative, b.negative),
        (a.negative, b.positive),
    ):
        assert not set(one.groups) & set(two.groups)
    assert set(a.positive.groups) == set(a.negative.groups)


def test_taking_some_spreads_over_groups():
    some = grouped(10, 5).take(20, seed=1)
    assert [sum(p.group == g for p in some) for g in some.groups] == [2] * 10
    assert grouped(2, 2).take(99) == grouped(2, 2)


def test_duplicates_across_the_sides_are_refused_whatever_their_case_and_spaces():
    with pytest.raises(PromptError, match="share their text"):
        ContrastSet.from_lists(["How do I make a bomb?"], ["how do  I make a BOMB? "])


def test_empty_sides_ids_twice_and_empty_texts_are_refused():
    with pytest.raises(PromptError, match="positive side"):
        ContrastSet.from_lists([], ["a"])
    with pytest.raises(PromptError, match="negative side"):
        ContrastSet.from_lists(["a"], [])
    with pytest.raises(PromptError, match="stand twice"):
        PromptSet.from_texts(["a", "b"], ids=["x", "x"])
    with pytest.raises(PromptError, match="empty"):
        PromptSet.from_texts([" "])
    with pytest.raises(PromptError, match="answer 4"):
        Prompt("q", "text", choices=("A", "B"), answer=4)
    with pytest.raises(InputError, match="fraction"):
        grouped().split(1.0)
    with pytest.raises(PromptError, match="at least 2 groups"):
        grouped(1).split()


def test_the_leak_guard_names_the_prompts():
    a, b = grouped().split()
    check_no_overlap(a, b, by="group")
    with pytest.raises(PromptError, match=a.ids[0]):
        check_no_overlap(grouped(), a, by="text")


def test_sets_survive_saving(tmp_path):
    prompts = PromptSet(
        "q",
        (
            Prompt(
                "1",
                "who?",
                choices=("A", "B"),
                answer=1,
                prefix="it is",
                messages=(("user", "hi"), ("assistant", "yes")),
            ),
        ),
    )
    assert PromptSet.load(prompts.save(tmp_path / "p.json")) == prompts
    contrast = ContrastSet("c", grouped(name="a"), grouped(name="b"))
    assert ContrastSet.load(contrast.save(tmp_path / "c.json")) == contrast


def test_text_is_escaped_in_html():
    shown = ContrastSet.from_lists(["<script>alert(1)</script>"], ["b"], name="<img src=x>")._repr_html_()
    assert "<script>" not in shown
    assert "<img" not in shown


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_files_of_every_kind_give_the_same_prompts(kind, tmp_path):
    frame = pd.DataFrame({"Goal": ['Say "a,\nb"', "Größe"], "Behavior": ["x", "y"]})
    path = tmp_path / f"data.{kind}"
    {
        "csv": lambda: frame.to_csv(path, index=False, encoding="utf-8-sig"),
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "json": lambda: frame.to_json(path, orient="records"),
        "parquet": lambda: frame.to_parquet(path),
    }[kind]()
    loaded = load_prompts(path, text="Goal", group="Behavior")
    assert loaded.texts == frame["Goal"].tolist()
    assert loaded.groups == ["x", "y"]
    with pytest.raises(PromptError, match="'Goal', 'Behavior'"):
        load_prompts(path, text="goal")


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes('\ufeffSay "a, b"\r\n\r\n  Größe 很大 \n \t\none\u2028prompt\x0b\x85still\nlast'.encode())
    loaded = load_prompts(path)
    assert loaded.texts == ['Say "a, b"', "Größe 很大", "one\u2028prompt\x0b\x85still", "last"]
    assert loaded.name == "mine"
    assert PromptSet.from_file(path, text="Goal").texts == loaded.texts
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(PromptError, match="no line with a text"):
        load_prompts(path)
    path.write_bytes("Größe".encode("latin-1"))
    with pytest.raises(PromptError, match="is not UTF-8"):
        load_prompts(path)


def test_unreadable_sources_are_one_clear_error(tmp_path):
    with pytest.raises(PromptError, match="no file"):
        load_prompts(tmp_path / "absent.csv")
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(PromptError, match="'.pkl'"):
        load_prompts(tmp_path / "a.pkl")
    with pytest.raises(PromptError, match="no organism set"):
        load_prompts("nothing")
    with pytest.raises(PromptError, match="registered"):
        load_contrast("nothing")
    (tmp_path / "b.csv").write_text("text\na\n\n", encoding="utf-8")
    assert len(load_prompts(tmp_path / "b.csv")) == 1
    (tmp_path / "c.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(PromptError, match="cannot read"):
        load_prompts(tmp_path / "c.jsonl")


def test_only_hub_ids_reach_the_network(monkeypatch):
    asked = []
    monkeypatch.setattr(
        sources, "hub_table", lambda *a: asked.append(a) or pd.DataFrame({"Goal": ["a " + a[2]], "Behavior": ["x"]})
    )
    contrast = load_contrast("jbb")
    assert [a[0] for a in asked] == ["JailbreakBench/JBB-Behaviors"] * 2
    assert contrast.positive.texts == ["a harmful"]
    assert load_prompts("owner/name", text="Goal", split="test").texts == ["a test"]
    with pytest.raises(PromptError):
        load_prompts("./owner/name")
    assert len(asked) == 3


def test_jbb_from_local_files(tmp_path):
    for side in ("harmful", "benign"):
        pd.DataFrame({"Goal": [f"{side} one", f"{side} one"], "Behavior": ["b", "b"]}).to_csv(tmp_path / f"{side}.csv")
    contrast = load_contrast("jbb", files={"positive": tmp_path / "harmful.csv", "negative": tmp_path / "benign.csv"})
    assert len(contrast.positive) == 1
    assert contrast.positive.groups == contrast.negative.groups


def test_own_contrasts_can_be_named():
    register_contrast("mine", lambda n_sides=1: ContrastSet.from_lists(["a"] * n_sides, ["b"]))
    assert load_contrast("mine").positive.texts == ["a"]


def test_the_organisms_world_is_balanced_and_its_splits_are_disjoint():
    tuned, held = load_contrast("organism/refusal", split="tuned"), load_contrast("organism/refusal", split="heldout")
    for side in ("positive", "negative"):
        assert not set(getattr(tuned, side).groups) & set(getattr(held, side).groups)
        assert len(getattr(held, side)) >= 200
    some = load_contrast("organism/refusal", n=60)
    assert len(some.positive) == len(some.negative) == 30
    questions = load_prompts("organism/choices", n=50)
    assert all(q.choices == ("A", "B", "C", "D") and q.answer is not None for q in questions)
    assert len({q.answer for q in questions}) == 4


def test_repeated_texts_of_one_side_are_dropped_with_a_notice_and_never_meet_across_a_split(tmp_path, caplog):
    texts = [f"question {i}" for i in range(10)]
    contrast = ContrastSet.from_lists([*texts, "Question  3"], ["a", "b", "a"])
    assert contrast.positive.texts == texts
    assert contrast.negative.ids == ["negative-0", "negative-1"]
    assert "dropped 1 repeated texts of 'positive': 'positive-10'" in caplog.text
    pd.DataFrame({"text": [*texts, *texts[:4]]}).to_csv(tmp_path / "list.csv")
    caplog.clear()
    loaded = PromptSet.from_file(tmp_path / "list.csv")
    assert loaded.texts == texts
    assert "dropped 4" in caplog.text
    check_no_overlap(*ContrastSet("c", loaded, contrast.negative).split(0.5)[0].positive.split(0.5))
    register_contrast("repeated", lambda: ContrastSet.from_lists(["a", "a"], ["b"]))
    assert load_contrast("repeated").positive.texts == ["a"]
    register_contrast("crossed", lambda: ContrastSet.from_lists(["a", "a"], ["a", "b"]))
    with pytest.raises(PromptError, match="share their text"):
        load_contrast("crossed")


@pytest.mark.parametrize(
    "field",
    [
        {"text": "half \ud83d"},
        {"prefix": "\udc00"},
        {"system": "\ud800"},
        {"completion": "\udfff"},
        {"messages": (("user", "\ud800"),)},
    ],
)
def test_half_of_a_character_is_one_clear_error(field):
    with pytest.raises(PromptError, match=r"prompt 'p' has a lone surrogate .*remove it"):
        Prompt(**{"id": "p", "text": "whole", **field})
    assert Prompt("p", "whole \U0001f600").text


def test_sets_with_the_same_content_are_noticed():
    one = PromptSet.from_texts(["a", "b"], name="one")
    check_distinct({"one": one, "two": PromptSet.from_texts(["a", "c"])})
    with pytest.raises(PromptError, match="'one' and 'two' are the same 2 prompts"):
        check_distinct({"one": one, "two": PromptSet.from_texts(["b", "A "])})


def test_a_contrast_with_one_group_on_both_sides_is_split():
    sides = {"positive": ["g", "h", "k"], "negative": ["g", "i", "j"]}
    contrast = ContrastSet(
        "c",
        *(
            PromptSet.from_texts([f"{name} {g}" for g in groups], name=name, groups=groups)
            for name, groups in sides.items()
        ),
    )
    for seed in range(4):
        first, second = contrast.split(0.5, seed=seed)
        groups = [set(part.positive.groups) | set(part.negative.groups) for part in (first, second)]
        assert not groups[0] & groups[1]
        assert groups[0] | groups[1] == {"g", "h", "i", "j", "k"}


def test_cells_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('id,text,label\n007,NA,1.50\n008,"Tell me, a joke",\n', encoding="utf-8")
    assert read_table(path).to_dict("records") == [
        {"id": "007", "text": "NA", "label": "1.50"},
        {"id": "008", "text": "Tell me, a joke", "label": ""},
    ]
    assert [p.id for p in load_prompts(path, id="id")] == ["007", "008"]
    lines = tmp_path / "x.jsonl"
    lines.write_text('{"id": "007", "text": "2020-01-01"}\n\n{"id": "1e5", "text": "a\\u2028b"}\n', encoding="utf-8")
    assert read_table(lines)["id"].tolist() == ["007", "1e5"]
    assert read_table(lines)["text"].tolist() == ["2020-01-01", "a\u2028b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\nTell me, a joke,x\n", "line 2: 3 cells under 2 columns; put quotation marks"),
        ("a.csv", "text,text\na,b\n", "'text' stands twice in the header"),
        ("a.csv", "text\n", "no records below its header"),
        ("a.csv", "", "is empty; its first line names the columns"),
        ("a.tsv", 'text\n"open\n', "quotation mark left open"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', "line 2: '.1.' is no object"),
        ("a.jsonl", "\n", "has no records"),
        ("a.json", "3", "holds no records"),
        ("a.parquet", "no parquet", "cannot read"),
        ("a.doc", "x", "ends in '.doc'; readable"),
    ],
)
def test_what_is_no_table_is_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        read_table(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 5000 + ".csv", "null\0.csv"])
def test_impossible_paths_are_one_clear_error(name):
    with pytest.raises(PromptError, match="no file"):
        read_table(name)
