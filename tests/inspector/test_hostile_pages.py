"""Every kind of page in a real Chromium, all that others wrote on it hostile: nothing runs, nothing is asked for."""

import json
import re
import sys

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from support import browser, explorer
from support.hostile import HOSTILE, hostile, hostile_gallery
from support.served import served
from support.summaries import summary

import mechsurgery as ms
from mechsurgery import plots
from mechsurgery.errors import InputError, LoadError, MechsurgeryError
from mechsurgery.evaluation.read import Compared
from mechsurgery.inspector import UnitView
from mechsurgery.inspector.fragment import fragment, standalone
from mechsurgery.inspector.report import offline_page
from mechsurgery.inspector.widget import still
from mechsurgery.plots import Section, TokenHeatmaps, write_page
from mechsurgery.plots.export import static_export_problem
from mechsurgery.reports.page import Page, Part
from mechsurgery.reports.redraw import redraw
from mechsurgery.reports.study import Study

TOKENS = [*HOSTILE, "\ud800", "<", "img src=x onerror=window.fired=9>", "&lt;script&gt;"]
VALUES = [float(np.sin(1 + i)) for i in range(len(TOKENS))]
#: A row of a heat map, which takes whole characters only.
ROW = (HOSTILE, VALUES[: len(HOSTILE)])
#: What no page may have of its own accord, or hold as more than text.
FOREIGN = "img, iframe, object, embed, base, form, a:not([href^='#']):not([data-title]), svg a"


def view():
    """A unit of which every text is hostile."""
    row = {"side": hostile("side"), "position": 0, "token": TOKENS[0], "activation": 1.0, "tokens": TOKENS}
    rows = [
        row | {"values": VALUES, "at": 0, "source": one, "prompt_id": hostile(one)} for one in ("prompt", "response")
    ]
    effects = pd.DataFrame({"m": [0.0, 1.0, 2.0], "value": [1.0, 2.0, 2.5]})
    sides = [hostile("a"), hostile("b")] * 4
    found = {"model": hostile("model"), "side": sides, "prompt_id": "p", "activation": range(8)}
    return UnitView(
        model=hostile("model"),
        name=hostile("unit"),
        kind="neuron",
        site=hostile("blocks.1"),
        index=3,
        contexts=pd.DataFrame(rows),
        activations=pd.DataFrame(found),
        ranks=pd.DataFrame({"rule": HOSTILE, "score": 1.5, "rank": 2, "of": 100}),
        writes=pd.DataFrame({"token": HOSTILE, "value": VALUES[: len(HOSTILE)]}),
        reads=pd.DataFrame({"part": hostile("gate"), "token": HOSTILE, "cosine": VALUES[: len(HOSTILE)]}),
        neighbours=pd.DataFrame({"by": "write direction", "unit": HOSTILE, "value": 0.9}),
        effects=effects,
        effect_name=hostile("log-odds"),
        facts={"side": hostile("side"), "density": 0.5, "n_tokens": 9},
    )


def document():
    """The explorer's document, hostile, with hostile units' pages."""
    made = explorer.document(hostile=True)
    for unit, text in zip(made["units"], HOSTILE):
        unit["name"] = unit["side"] = text
    made |= {"title": hostile("t"), "prompts": TOKENS, "sides": {"positive": HOSTILE[0], "negative": HOSTILE[1]}}
    made["model"]["name"] = made["base"]["name"] = made["circuit"]["name"] = hostile("m")
    made["effect"]["name"] = made["scores"][0]["label"] = hostile("e")
    return made


class Hostile:
    """Stands in for a catalogue; every unit has a hostile page, or an error with a hostile text."""

    model = None

    def document(self, *, live=True):
        return document() | {"live": live}

    def page(self, name):
        if name == "broken":
            raise InputError(HOSTILE[0])
        return fragment(view())

    def unit(self, name):
        return view()


def study(folder):
    """A saved study all of whose texts are hostile."""
    claims = {"claim": HOSTILE, "verdict": "held", "measured": HOSTILE, "rule": HOSTILE}
    tables = {
        "Claims: <b>all</b>": pd.DataFrame(claims),
        hostile("Table"): pd.DataFrame(dict.fromkeys(HOSTILE, HOSTILE)),
    }
    maps = {hostile("map"): [(hostile("row"), *ROW)]}
    part = Part(hostile("part"), HOSTILE, [hostile("Table")], ["curves"], maps)
    page = Page(hostile("Held:"), "curves", [*HOSTILE, f"$ {HOSTILE[0]}"], [part])
    info = {"title": hostile("study"), "command": hostile("run"), **{one: one for one in HOSTILE}}
    drawings = {"curves": plots.draw("curves", summary(hostile("run")), [("refusal", "harmful")], title=hostile("c"))}
    made = Study(tables, drawings, {}, {}, info, page, captions={"curves": hostile("caption")})
    made.save(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def figures():
    return hostile_gallery()


def notebook_page(folder):
    """What nouns show in a notebook, where no policy holds anything back."""
    scores = ms.UnitScores({"blocks.0.mlp.hook_post": torch.arange(9.0)}, hostile("rule"))
    prompts = ms.PromptSet.from_texts(HOSTILE, name=hostile("set"))
    contrast = ms.ContrastSet(hostile("contrast"), prompts, ms.PromptSet.from_texts(["plain"], name=hostile("o")))
    shown = [scores, scores.top(k=2), prompts, contrast, view(), TokenHeatmaps([(hostile("r"), *ROW)])]
    shown.append(Compared(dict.fromkeys(HOSTILE, HOSTILE)))
    body = "".join(one._repr_html_() for one in shown) + still(document())
    text = f"<!doctype html><meta charset='utf-8'><link rel='icon' href='data:,'><body>{body}</body>"
    (folder / "notebook.html").write_text(text, encoding="utf-8")
    return folder / "notebook.html"


def written(name, text):
    def make(folder):
        (folder / name).write_text(text(), encoding="utf-8")
        return folder / name

    return make


def one_figure(folder):
    """A figure in a file of its own, with points that WebGL draws."""
    figure = go.Figure([go.Scattergl(x=[1, 2], y=[3, 4], name=HOSTILE[0]), go.Scatter(x=[1], y=[1], text=HOSTILE[:1])])
    figure.update_layout(title=HOSTILE[3], annotations=[{"text": one, "x": 1, "y": 1} for one in HOSTILE])
    plots.export(figure, folder / "one", formats=("html", "json"), plotlyjs="directory")
    return folder / "one.html"


#: A figure that a stranger made to send requests: pictures, maps' styles, links, menus, styles.
STRANGE = {
    "data": [
        {"type": "scatter", "x": [1], "y": [2], "text": HOSTILE, "name": HOSTILE[3], "hovertemplate": HOSTILE[9]},
        {"type": "image", "source": "http://evil.example/e"},
        {"type": "bar", "x": HOSTILE, "y": [1] * len(HOSTILE)},
    ],
    "layout": {
        "title": {"text": "<a href='http://evil.example/g'>t</a>"},
        "images": [{"source": "http://evil.example/h", "x": 0, "y": 1, "sizex": 1, "sizey": 1}],
        "annotations": [{"text": one, "x": 1, "y": 2} for one in HOSTILE],
        "map": {"style": "http://evil.example/i"},
        "updatemenus": [{"buttons": [{"args": ["images[0].source", "http://evil.example/j"], "method": "relayout"}]}],
        "template": {"layout": {"images": [{"source": "//evil.example/k"}], "title": {"text": HOSTILE[3]}}},
        "font": {"family": "x;background:url(http://evil.example/l)"},
    },
}


def redrawn(folder):
    """A stranger's folder drawn again."""
    content = {"strange": {"function": "a figure as it is", "given": [STRANGE], "options": {}, "caption": HOSTILE[0]}}
    (folder / "drawings.json").write_text(json.dumps(content))
    redraw(folder, formats=("html",))
    return folder / "figures" / "index.html"


def redrawn_alone(folder):
    redrawn(folder)
    return folder / "figures" / "strange.html"


KINDS = {
    "report of a study": (study, ".main-svg"),
    "a figure alone": (one_figure, ".main-svg"),
    "a stranger's folder": (redrawn, ".main-svg"),
    "a stranger's figure": (redrawn_alone, ".main-svg"),
    "a unit": (written("unit.html", lambda: standalone(view())), ".ms-unit"),
    "explorer": (written("e.html", lambda: offline_page(document() | {"live": False})), ".ms-explorer tbody tr"),
    "notebook": (notebook_page, ".heat span"),
}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch, request):
    """Pictures take seconds each, and are tested by themselves."""
    if "pictures" not in request.node.name:
        monkeypatch.setattr(sys.modules["mechsurgery.plots.export"], "static_export_problem", lambda: "not here")


@pytest.fixture(scope="module")
def chromium():
    with browser.browser() as running:
        yield running


def safe(watched):
    """Nothing of what is hostile ran, was fetched, or became an element."""
    page = watched.page
    assert page.evaluate("window.fired ?? null") is None
    assert page.evaluate("(kinds) => [...document.querySelectorAll(kinds)].map((one) => one.outerHTML)", FOREIGN) == []
    assert "evil" not in "".join(page.eval_on_selector_all("style", "all => all.map((one) => one.textContent)"))
    assert watched.problems == []


def opened(chromium, address):
    watched = browser.Watched(chromium)
    watched.page.on("dialog", lambda dialog: watched.problems.append(f"dialog: {dialog.message}"))
    watched.page.set_default_timeout(15_000)
    watched.page.goto(address)
    return watched


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_are_texts_on_every_kind_of_page(kind, chromium, tmp_path):
    make, works = KINDS[kind]
    path = make(tmp_path)
    watched = opened(chromium, path.as_uri())
    watched.page.wait_for_selector(works, state="attached")
    if kind == "explorer":
        for row in range(2):
            watched.page.locator(".ms-explorer tbody tr").nth(row).click()
            watched.page.get_by_role("button", name="difference", exact=True).first.click()
    if kind != "notebook":
        policy = watched.page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy.split("script-src")[-1].split(";")[0] or "script-src" not in policy
        assert ("unsafe-eval" in policy) == (kind == "a figure alone"), "for WebGL's points alone"
    assert any(word in path.read_text("utf-8") for word in ("window.fired", "evil.example"))
    safe(watched)
    watched.close()


def test_hostile_texts_are_texts_in_the_app(chromium):
    with served(Hostile()) as place:
        watched = opened(chromium, place.address)
        page = watched.page
        page.wait_for_selector(".ms-explorer tbody tr")
        page.locator(".ms-explorer tbody tr").nth(1).click()
        page.wait_for_selector(".ms-unit h2")
        page.get_by_placeholder("open any unit").fill("broken")
        page.get_by_role("button", name="Open", exact=True).click()
        page.wait_for_function("(text) => document.querySelector('.ms-status').textContent === text", arg=HOSTILE[0])
        safe(watched)
        watched.close()


def texts_in(node):
    """Every text in a figure's JSON."""
    if isinstance(node, dict):
        return [text for one in [*node, *node.values()] for text in texts_in(one)]
    return (
        [text for one in node for text in texts_in(one)] if isinstance(node, list) else [node] * isinstance(node, str)
    )


def test_every_figure_holds_what_is_hostile_as_text(figures, chromium, tmp_path):
    assert len(figures) > 28
    for name, figure in figures.items():
        for text in texts_in(json.loads(figure.to_json())):
            assert not re.search(r"<(?!br>|/?extra>)", text), (name, text)
            assert text.count("$") < 2, (name, text)
            assert not re.search(r"%\{customdata\[0\]", text), (name, text)
    shown = {name: figures[name] for name in ("shares", "promoted_tokens", "neuron_scatter", "cosine_trajectories")}
    path = write_page(tmp_path / "h.html", HOSTILE[0], [Section(HOSTILE[1], HOSTILE, figures=shown)])
    watched = opened(chromium, path.as_uri())
    watched.page.wait_for_selector("figure:last-of-type .main-svg")
    bar = watched.page.locator("#f0-1 .points .point path").first
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    watched.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    watched.page.wait_for_selector(".hoverlayer text")
    safe(watched)
    watched.close()


@pytest.mark.slow
def test_pictures_of_a_strangers_figure_hold_no_link_and_fetch_nothing(chromium, tmp_path):
    if static_export_problem():
        pytest.skip("no browser engine writes pictures here")
    figure = plots.draw("a figure as it is", STRANGE).figure()
    plots.export(figure, tmp_path / "s", formats=("svg",))
    watched = opened(chromium, (tmp_path / "s.svg").as_uri())
    assert watched.page.evaluate("document.querySelectorAll('a, image[href^=http], script').length") == 0
    safe(watched)
    watched.close()


@pytest.mark.parametrize(
    "changed",
    [
        {"given": [{"data": [{"type": "scattergeo"}], "layout": {}}]},
        {"given": [{"data": [{"type": "choropleth"}], "layout": {}}]},
        {"given": [{"data": 3, "layout": []}]},
        {"given": []},
        {"given": [{"data": [], "layout": {"meta": {"mechsurgery": {"size": "x"}}}}]},
        {"function": "curves", "given": [1]},
        {"function": "export_all", "given": [{}]},
    ],
)
def test_what_a_stranger_saved_and_cannot_be_drawn_is_refused(changed, tmp_path):
    one = {"function": "a figure as it is", "given": [], "options": {}, "caption": ""}
    (tmp_path / "drawings.json").write_text(json.dumps({"f": one | changed}))
    with pytest.raises(InputError):
        redraw(tmp_path, formats=("html",))
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("name", ["../f", "/tmp/f", "..", "", "a\\b", "javascript:x\n", "\u202ex", "a" * 300])
def test_names_of_a_strangers_figures_are_plain(name, tmp_path):
    one = {"function": "a figure as it is", "given": [{"data": []}], "options": {}, "caption": ""}
    (tmp_path / "drawings.json").write_text(json.dumps({name: one}))
    with pytest.raises(LoadError, match="plain names"):
        redraw(tmp_path, formats=("html",))


def test_a_folder_whose_figures_are_a_link_elsewhere_is_not_written_to(tmp_path):
    (tmp_path / "outside").mkdir()
    inside = tmp_path / "folder"
    inside.mkdir()
    (inside / "figures").symlink_to(tmp_path / "outside")
    one = {"function": "a figure as it is", "given": [{"data": []}], "options": {}, "caption": ""}
    (inside / "drawings.json").write_text(json.dumps({"f": one}))
    with pytest.raises(MechsurgeryError, match="leads out of"):
        redraw(inside, formats=("html",))
    assert not list((tmp_path / "outside").iterdir())
