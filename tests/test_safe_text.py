"""Text of others where it is written: terminals, logs, errors, progress, spreadsheets, Markdown, LaTeX, notebooks."""

import csv
import io
import logging
import re

import pandas as pd
import pytest
from click.testing import CliRunner

from mechsurgery import errors, progress
from mechsurgery.cli import main
from mechsurgery.reports.page import Page
from mechsurgery.reports.study import Study
from mechsurgery.safe_text import csv_text, html_table, html_text, latex_table, latex_text, markdown_table, visible

SLY = "a\x1b[2J\x07\x9b1m\x7f\u202eb\u200b\u2066c\u00ad\ufeff\ud800\x00\r\U000e0041d"


def test_what_commands_a_terminal_is_written_out():
    shown = visible(SLY)
    assert all(char.isprintable() for char in shown)
    assert shown.startswith("a␛[2J␇⟨U+009B⟩1m␡⟨U+202E⟩b⟨U+200B⟩")
    assert visible(shown) == shown
    for text in ("plain\n\ttext", "你好 🙂", "👩\u200d🚀", "می\u200cخواهم", "e\u0301", "\ufffd"):
        assert visible(text) == text
    assert visible("a\u200db") == "a⟨U+200D⟩b"


def test_errors_logs_bars_and_commands_write_no_commands(capsys, tmp_path):
    for kind in (errors.InputError, errors.SiteError, errors.WriteError, errors.MissingExtraError):
        assert str(kind(f"no {SLY}")) == f"no {visible(SLY)}"
    records = []
    watch = logging.Handler()
    watch.emit = lambda record: records.append(record.getMessage())
    logging.getLogger().addHandler(watch)
    try:
        logging.getLogger("mechsurgery.prompts.sets").warning("dropped %s of %d", SLY, 3)
    finally:
        logging.getLogger().removeHandler(watch)
    assert records == [f"dropped {visible(SLY)} of 3"]
    list(progress.with_progress([1], f"reading {SLY}", shown=True))
    assert "\x1b[2J" not in capsys.readouterr().err
    done = CliRunner().invoke(main, ["locate", f"no\x1b[2J\u202e{tmp_path}", "--contrast", "organism/refusal"])
    assert done.exit_code == 1
    assert not re.search("[\x1b\u202e]", done.output)


FORMULAS = [
    *(
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3+cmd|' /C calc'!A0",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "＝1+1",
        "＋cmd",
        "－cmd",
        "＠x",
    ),
    *("  =1", "\ufeff=1", "\n=1", '=HYPERLINK("http://evil.example")', "-x", "+A1"),
]
NUMBERS = ["-0.5", "+3", "-1e-5", "-12.3 % [-15.0 %, -9.1 %]", "+.5", "-inf", "-3 (2)", "−4", "text", "a=b", ""]


def test_a_spreadsheet_calculates_nothing_and_numbers_stay_numbers():
    table = pd.DataFrame({"=name": [*FORMULAS, *NUMBERS], "n": -1.5, "i": -3, "o": [("=a",)] * 27})
    rows = list(csv.reader(io.StringIO(csv_text(table))))
    assert rows[0] == ["'=name", "n", "i", "o"]
    assert [row[0][0] for row in rows[1 : len(FORMULAS) + 1]] == ["'"] * len(FORMULAS)
    assert [row[0] for row in rows[len(FORMULAS) + 1 :]] == NUMBERS
    again = pd.read_csv(io.StringIO(csv_text(table)))
    assert (again["n"].tolist(), again["i"].tolist()) == ([-1.5] * 27, [-3] * 27)


def test_markdown_cells_are_text():
    cells = ["a|b", "`c`", "x\ny", "<img src=x>", "![p](http://evil.example)", "[l](javascript:1)", "\\|", "$x$", "_e_"]
    lines = markdown_table(pd.DataFrame({"n|m": cells, "v": 0.12345})).splitlines()
    assert len(lines) == len(cells) + 2
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {3}
    whole = "\n".join(lines)
    assert not re.search(r"<(?!br>)|\]\(|(?<!\\)`|(?<!\\)\$", whole)
    assert "0.123 |" in whole
    assert "write_norm [1, 2] <br>".replace(" <br>", "") in markdown_table(pd.DataFrame({"a": ["write_norm [1, 2]"]}))


def test_latex_cells_captions_and_columns_are_text():
    cells = ["\\input{/etc/passwd}", "a & b % c", "$x$ #1 _a_ {b} ~ ^", "[5pt] start", "*", "x\\\\ y", "a\n\nb", "<|>"]
    text = latex_table(pd.DataFrame({"c_1 & d": cells, "v": 0.12345}), "50 % of \\write18{x} & _")
    assert r"\caption{50 \% of \textbackslash{}write18\{x\} \& \_}" in text
    assert r"c\_1 \& d & v \\" in text
    rows = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(rows) == len(cells)
    assert not [row for row in rows if not row.endswith(r" & 0.123 \\") or row.lstrip().startswith(("[", "*"))]
    names = {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar"}
    assert {one for one in re.findall(r"\\([a-zA-Z]+)", "\n".join(rows))} <= names
    assert latex_text("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"


def test_notebooks_show_text_and_no_mathematics():
    shown = html_table(pd.DataFrame({"<b>": ["<i>x</i> $y$", SLY.replace("\ud800", "")]}))
    assert "<i>" not in shown
    assert "<b>" not in shown
    assert "mathjax_ignore" in shown
    assert "\u202e" not in shown
    assert html_text("'\"<&") == "&#x27;&quot;&lt;&amp;"


@pytest.mark.parametrize("ending", ["csv", "md", "tex"])
def test_a_studys_tables_are_safe_where_they_are_written(ending, tmp_path):
    table = pd.DataFrame({"claim": ["=1+1|<b>", "\\x"], "verdict": "held", "measured": "1"})
    Study({"Claims": table}, {}, {}, {}, {"title": "t"}, Page("Held.")).save(tmp_path)
    text = (tmp_path / "tables" / f"claims.{ending}").read_text()
    assert {"csv": "'=1+1|<b>", "md": r"=1+1\|&lt;b&gt;", "tex": r"=1+1\textbar{}\textless{}b"}[ending] in text
