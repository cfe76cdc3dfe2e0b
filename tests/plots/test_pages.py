"""Pages and heat maps: everything that users and models wrote is shown as text; figures fit a paper's columns."""

import base64
import hashlib
import html.parser
import json
import re

import pandas as pd
import plotly.graph_objects as go
import pytest
from support.summaries import summary

from mechsurgery import plots
from mechsurgery.errors import InputError, LoadError
from mechsurgery.plots import Section, TokenHeatmaps, write_page
from mechsurgery.reports.page import Page, Part
from mechsurgery.reports.study import Study
from mechsurgery.units import UnitScores

TOKENS = ["<bos>", "<h1>", "x<y", "<img/src=x onerror=alert(1)>", "&lt;", "a & b", "</script>", "<!--", "<?x", " ok"]


class Reader(html.parser.HTMLParser):
    """Reads HTML as a browser's innerHTML does: text, and every tag or comment."""

    def __init__(self, source):
        super().__init__()
        self.text, self.others = "", []
        self.feed(source)
        self.close()

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.others.append(tag)

    def handle_endtag(self, tag):
        self.others.append(tag)

    handle_comment = handle_decl = handle_pi = handle_endtag


def test_tokens_are_shown_as_the_text_they_are():
    fragment = TokenHeatmaps([("<i>row</i>", TOKENS, range(len(TOKENS)))]).fragment()
    assert fragment.count("<script>") == fragment.count("</script>") == 1
    drawn = json.loads(re.search(r"ColoredTokens,(.*)\)</script>", fragment)[1])["tokens"]
    for token, given in zip(TOKENS, drawn, strict=True):
        reader = Reader(given)  # the picture is innerHTML, the tooltip plain text
        assert not reader.others
        assert reader.text.replace("\u2060", "") == given.replace("\u2060", "") == token.replace(" ", "·")
    assert "<i>" not in fragment
    with pytest.raises(InputError, match="2 tokens and 1 values"):
        TokenHeatmaps([("r", ["a", "b"], [1.0])])


def test_circuitsvis_still_takes_tokens_for_html():
    # where this fails, the word joiners of `heatmaps` are needed no more
    assert "dangerouslySetInnerHTML:{__html:" in TokenHeatmaps.script()


def test_a_page_stands_alone_and_escapes_all_text(tmp_path):
    figures = {"<u>caption</u>": plots.curves(summary(), [("refusal", "harmful")])}
    table = pd.DataFrame({"<b>name</b>": ["<script>alert(1)</script>", "held"], "n": [0.12345, None]})
    maps = {"<s>heat</s>": TokenHeatmaps([("row", ["a"], [1.0])])}
    section = Section("<u>s</u>", ("<img src=x>",), {"<p>": table}, figures, maps)
    page = write_page(tmp_path / "page.html", "<i>t</i>", [section, Section("second")]).read_text()
    assert "<script src" not in page
    body = page[page.index("<body>") :]
    for raw in ("<script>alert", "<i>t", "<u>", "<img", "<b>name", "<p><", "<s>heat"):
        assert raw not in body
    assert "<td class='held'>held</td>" in body
    assert "0.123<" in body
    assert page.count("CircuitsVis.render(") == 1
    again = write_page(tmp_path / "again.html", "<i>t</i>", [Section("second")]).read_text()
    assert "plotly" not in again


def test_all_figures_are_written_with_one_page_that_shows_them(tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["mechsurgery.plots.export"], "static_export_problem", lambda: "no browser")
    figures = {name: plots.curves(summary(), [("refusal", "harmful")]) for name in ("first_one", "second")}
    said = plots.export_all(figures, tmp_path, dict.fromkeys(figures, "<b>same caption</b>"))
    assert said.startswith("2 figures written to")
    assert "left out png: no browser" in said
    page = (tmp_path / "index.html").read_text()
    assert page.count("&lt;b&gt;same caption&lt;/b&gt; [") == 2
    assert {"first_one.html", "second.json", "plotly.min.js"} <= {path.name for path in tmp_path.iterdir()}


def test_a_study_writes_its_tables_rows_figures_and_page(tmp_path):
    table = pd.DataFrame({"claim": ["a & b"], "verdict": ["held"], "measured": ["1 %"]})
    drawings = {"curves": plots.draw("curves", summary(), [("refusal", "harmful")])}
    page = Page("Held: “a & b” (1 %).", "curves", ("One.",), (Part("Claims", (), ("Figure",)),))
    study = Study({"Claims: all": table, "Figure 1": table}, drawings, {"rows": table}, {}, {"title": "A study"}, page)
    assert "Figure 1" not in study.text()
    assert study.text().startswith("Held: ")
    said = study.save(tmp_path)
    assert "1 figures written" in said
    assert "2 tables and the report written" in said
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        f"{name}.{ending}" for name in ("claims", "figure_1") for ending in ("csv", "md", "tex", "parquet")
    }
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results" / "rows.parquet"), table)
    report = (tmp_path / "report.html").read_text()
    assert "A study" in report
    assert "<td>a &amp; b</td>" in report
    assert r"a \& b" in (tmp_path / "tables" / "claims.tex").read_text()


ODD = {"odd": "</script><script>alert(1)</script>", "x": [1, 2], 3: ("a", None), "f": float("nan")}


def test_a_drawing_is_saved_with_all_it_is_given_and_draws_the_same(tmp_path):
    import torch

    scores = UnitScores({"blocks.0.mlp.hook_post": torch.randn(40), "blocks.1.mlp.hook_post": torch.randn(40)}, "r")
    circuits = {"a": scores.top(k=5), "b": scores.top(k=9)}
    table = summary()
    drawings = {
        **plots.comparison_drawings({"a": scores, "b": scores}, circuits),
        "curves": plots.draw("curves", table, [("refusal", "harmful", None)]),
        "again": plots.draw("curves", table, [("refusal", "harmful")], title="</script><b>bold"),
        "finished": plots.as_drawing(go.Figure([go.Scatter(x=[1, 2], y=[3, 4])])),
    }
    plots.save_drawings(tmp_path, drawings, {"curves": "a caption"})
    again, captions = plots.load_drawings(tmp_path)
    assert captions == {"curves": "a caption"}
    assert len(list((tmp_path / "drawn").glob("*.parquet"))) == 1, "one table, kept once"
    for name, drawing in drawings.items():
        assert again[name].figure().to_json() == drawing.figure().to_json(), name
    plots.save_drawings(tmp_path, {"odd": plots.draw("curves", ODD)})
    odd = plots.load_drawings(tmp_path)[0]["odd"].given[0]
    assert (odd["odd"], odd["x"], odd[3]) == (ODD["odd"], [1, 2], ("a", None))
    assert odd["f"] != odd["f"]
    with pytest.raises(InputError, match="no figure 'export_none'"):
        plots.draw("export_none").figure()
    assert not list((tmp_path / "drawn").iterdir()), "what is drawn no more is not kept"
    plots.save_drawings(tmp_path / "b", {"curves": drawings["curves"]})
    next((tmp_path / "b" / "drawn").glob("*.parquet")).write_bytes(b"broken")
    with pytest.raises(LoadError, match="is not what was written"):
        plots.load_drawings(tmp_path / "b")


def test_only_the_page_s_own_scripts_may_run(tmp_path):
    figures = {"c": plots.curves(summary(), [("refusal", "harmful")], title="</script><script>alert(1)</script>")}
    maps = {"h": TokenHeatmaps([("row", ["</script>"], [1.0])])}
    text = write_page(tmp_path / "p.html", "t", [Section("s", ("x",), {}, figures, maps)]).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    found = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found}
    assert {f"'sha256-{one}'" for one in hashes} == set(re.findall(r"'sha256-[^']+'", policy))
    assert re.findall(r"<script [^>]*>", text) == ['<script type="application/json" data-figure="f0-0">']
    plain = write_page(tmp_path / "q.html", "t", [Section("s", ("x",))]).read_text()
    assert "script-src 'none'" in plain


def test_a_tall_figure_has_the_room_it_needs(tmp_path):
    figure = go.Figure(layout={"height": 2400, "width": 330})
    text = write_page(tmp_path / "p.html", "t", [Section("s", (), {}, {"c": figure})]).read_text()
    assert "style='width:330px;height:2400px'" in text
