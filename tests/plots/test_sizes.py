"""Figures at their printed sizes: fonts, canvas, overlaps, PDF pages, titles that can be left out, and JSON."""

import re
import sys

import plotly.graph_objects as go
import plotly.io
import pytest
from support.gallery import gallery
from support.measured import faults, measured
from support.summaries import summary

from mechsurgery import plots
from mechsurgery.errors import InputError
from mechsurgery.plots.layout import scaled, themed
from mechsurgery.plots.theme import extent, fitted, unwrapped, wrapped

POINT = 96 / 72
#: Width in pixels, and the least and the common font in points.
PRESETS = {"column": (3.25 * 96, 7, 8), "text": (5.5 * 96, 7, 8), "slide": (960, 15, 18), "screen": (720, 8, 10)}


@pytest.fixture(scope="module")
def figures():
    return gallery()


@pytest.fixture(scope="module")
def drawn(figures):
    named = {f"{name}|{size}": plots.resized(figure, size) for name, figure in figures.items() for size in PRESETS}
    untitled = {
        f"{name}|bare": plots.resized(figure, "column", title="") for name, figure in list(figures.items())[::4]
    }
    return measured(named | untitled)


@pytest.mark.parametrize("size", [*PRESETS, "bare"])
def test_no_letter_is_small_off_the_canvas_or_over_another(drawn, size):
    width, least, usual = PRESETS["column" if size == "bare" else size]
    wrong = {}
    for name, one in drawn.items():
        if name.endswith(f"|{size}"):
            assert one["size"][0] == width
            assert any(abs(text["font"] - usual * POINT) < 0.1 for text in one["texts"]), name
            wrong[name] = faults(one, least=6 * POINT if size in ("column", "text", "bare") else least * POINT)
    assert len(wrong) >= (7 if size == "bare" else 28)
    assert not {name: said for name, said in wrong.items() if said}


def test_a_legend_stands_below_all_ticks_and_titles(drawn):
    for name, one in drawn.items():
        if one["legend"] is None:
            continue
        _, top, right, bottom = one["legend"]
        assert right <= one["size"][0] + 1, name
        assert bottom <= one["size"][1] + 1, name
        inside = [t["text"] for t in one["texts"] if t["box"][1] >= top]
        others = [t["text"] for t in one["texts"] if t["box"][3] > top + 1.5 and t["text"] not in inside]
        assert not others, name


def test_a_title_can_be_left_out_replaced_or_kept():
    figure = plots.curves(summary(), [("refusal", "harmful")], title="Mine")
    assert figure.layout.title.text == "Mine"
    for bare in (
        plots.resized(figure, "column", title=""),
        plots.curves(summary(), [("refusal", "harmful")], title=None),
    ):
        assert not bare.layout.title.text
        assert bare.layout.height < figure.layout.height
    assert plots.resized(figure, "text").layout.title.text == "Mine"
    assert plots.resized(figure, "text", title="<other>").layout.title.text == "&lt;other&gt;"


def test_resizing_there_and_back_is_the_same_figure_and_leaves_the_first_alone(figures):
    for name, figure in figures.items():
        before = figure.to_json()
        slide = plots.resized(figure, "slide")
        again = plots.resized(slide, "column")
        assert figure.to_json() == before, name
        assert again.layout.height == figure.layout.height, name
        assert [t.name for t in again.data] == [t.name for t in figure.data], name
        assert slide.layout.font.size is None  # fonts are the template's
        assert slide.layout.template.layout.font.size == pytest.approx(18 * POINT)


def test_stripes_lie_over_the_colour_of_bars(figures):
    # kaleido's PDFs have the stripes alone where plotly replaces the colour by both
    striped = [t.marker for f in figures.values() for t in f.data if t.type == "bar" and t.marker.pattern.shape]
    assert striped
    assert all(marker.color is not None and marker.pattern.fillmode == "overlay" for marker in striped)


def test_saved_figures_can_be_resized():
    figure = plots.bars(summary(), [("refusal", "harmful"), ("kl", "neutral")], title="a <b> & c")
    read = plotly.io.from_json(figure.to_json())
    assert plots.resized(read, "text").to_dict() == plots.resized(figure, "text").to_dict()
    assert plots.resized(read, "text").layout.title.text == "a &lt;b&gt; &amp; c"


def test_unknown_sizes_and_foreign_figures_are_refused():
    figure = themed(go.Figure(), "t", height=100)
    with pytest.raises((InputError, TypeError), match="poster"):
        plots.resized(figure, "poster")
    with pytest.raises(InputError, match=r"made by mechsurgery\.plots"):
        plots.resized(go.Figure(), "column")


@pytest.mark.parametrize(
    "text", ["", "a", "a-very-long-word-of-many-parts", "<b>x</b> & y z", "m\u00a0=\u00a00.5, " * 9]
)
@pytest.mark.parametrize("width", [6, 17, 80])
def test_wrapping_is_undone_exactly(text, width):
    assert unwrapped(wrapped(text, width)) == text.strip()
    assert "<b>" not in wrapped(text, width)


def test_lines_fit_the_pixels_they_are_given():
    text = "organism/instruct: most complies on harmful with the minimal circuit: 95% (baseline 0%)"
    for pixels in (80, 200, 500):
        assert all(extent(line) <= pixels for line in map(unwrapped, fitted(text, pixels).split("<br>")))


def test_lengths_are_scaled_and_data_are_not():
    bar = go.Bar(x=[1.0], y=[2.0], width=[0.5], marker={"line": {"width": 2}, "pattern": {"size": 4}})
    twice = scaled(bar.to_plotly_json(), 2)
    assert (twice["x"], twice["width"]) == ([1.0], [0.5])
    assert twice["marker"] == {"line": {"width": 4}, "pattern": {"size": 8}}


@pytest.mark.parametrize("form", ["svg", "pdf"])
def test_scale_acts_on_png_alone(tmp_path, monkeypatch, form):
    monkeypatch.setattr(sys.modules["mechsurgery.plots.export"], "static_export_problem", lambda: None)
    asked = {}

    def to_image(figure, format, **size):
        asked[format] = size
        return b""

    monkeypatch.setattr(go.Figure, "to_image", to_image)
    plots.export(go.Figure(layout={"width": 312, "height": 200}), tmp_path / "f", formats=("png", form), scale=2)
    assert asked == {"png": {"scale": 2, "width": 312, "height": 200}, form: {"scale": 1, "width": 312, "height": 200}}


def test_a_pdf_is_one_page_of_the_printed_size(tmp_path):
    problem = plots.static_export_problem()
    if problem is not None:
        pytest.skip(problem)
    figure = plots.curves(summary(), [("refusal", "harmful"), ("kl", "neutral")])
    for size, points in (("column", 234), ("text", 396)):
        plots.export(figure, tmp_path / size, formats=("pdf", "svg"), size=size, scale=3)
        pages = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", (tmp_path / f"{size}.pdf").read_bytes())
        height = plots.resized(figure, size).layout.height * 72 / 96
        assert [tuple(map(float, page)) for page in pages] == [pytest.approx((points, height), abs=0.3)]
        assert f'width="{points * 96 // 72}"' in (tmp_path / f"{size}.svg").read_text()[:500]
