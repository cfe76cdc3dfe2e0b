"""Saved pages in a real Chromium: tokens are shown as the text they are and coloured in their place; nothing leaves."""

import numpy as np
import pandas as pd
import pytest
from support import browser

from mechsurgery.inspector import Catalogue, UnitView, report
from mechsurgery.inspector.fragment import fragment, standalone
from mechsurgery.models.tokens import pieces
from mechsurgery.plots import Section, TokenHeatmaps, write_page
from mechsurgery.plots.heatmaps import shown_token

TOKENS = [
    "<bos>",
    "<|eot_id|>",
    " 你好",
    "🙂",
    "<img src=x onerror=alert(1)>",
    "</script>",
    "a\u202eb",
    "x<y",
    " &lt;",
    "\n",
    "<start_of_turn>",
]
VALUES = [0.0, 0.1, -0.5, 0.2, 0.3, 1.0, -1.0, 0.4, 0.5, 0.6, 0.7]


@pytest.fixture(scope="module")
def chromium():
    with browser.browser() as running:
        yield running


@pytest.fixture
def opened(chromium, tmp_path):
    """`opened(html)`: the page of a document. Afterwards: no console error, nothing asked of another machine."""
    watched = []

    def open_page(text):
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        watched.append(browser.Watched(chromium))
        watched[-1].page.on("dialog", lambda dialog: watched[-1].problems.append(f"dialog: {dialog.message}"))
        watched[-1].page.goto(path.as_uri())
        return watched[-1].page

    yield open_page
    for one in watched:
        problems = list(one.problems)
        one.close()
        assert problems == []


def view(name="L1.3", *, contexts=1, tokens=TOKENS, values=VALUES):
    """A made-up unit whose contexts hold these tokens."""
    place = int(np.abs(values).argmax())
    row = {"side": "<b>side</b>", "position": place, "token": tokens[place], "activation": values[place]}
    row |= {"tokens": list(tokens), "values": list(values), "at": place}
    rows = [{"source": s, "prompt_id": f"p{i}", **row} for s in ("prompt", "response") for i in range(contexts)]
    return UnitView(
        model="organism/<i>x</i>",
        name=name,
        kind="neuron",
        site="blocks.1.mlp.hook_post",
        index=3,
        contexts=pd.DataFrame(rows),
        activations=pd.DataFrame({"model": "m", "side": ["a", "b"] * 4, "prompt_id": "p", "activation": range(8)}),
        ranks=pd.DataFrame({"rule": ["difference"], "score": [1.5], "rank": [2], "of": [100]}),
        writes=pd.DataFrame({"token": TOKENS[:4], "value": [2.0, 1.0, -1.0, -2.0]}),
        reads=pd.DataFrame({"part": "gate", "token": TOKENS[4:8], "cosine": [0.5, 0.2, -0.1, -0.3]}),
        neighbours=pd.DataFrame({"by": ["write direction"], "unit": ["L1.4"], "value": [0.9]}),
        effects=pd.DataFrame({"m": [0.0, 1.0, 2.0], "value": [1.0, 2.0, 2.5]}),
        effect_name="log-odds of <refusal>",
    )


def test_every_token_of_a_units_page_is_text_and_coloured_in_its_place(opened):
    page = opened(standalone(view()))
    text = page.locator(".text").first
    where = text.locator(".where").inner_text()
    assert text.inner_text().removeprefix(where).replace("\n", "") == "".join(map(shown_token, TOKENS))
    drawn = text.evaluate(
        """line => [...line.childNodes].slice(1).flatMap(node => node.nodeType === 3
            ? [[node.textContent, 0]] : [[node.textContent, Number(getComputedStyle(node)
                .backgroundColor.match(/[\\d.]+/g)[3] ?? 1) * (node.className.includes("neg") ? -1 : 1)]])"""
    )
    assert [piece for piece, _ in drawn] == [shown_token(token) for token in TOKENS]
    assert [np.sign(alpha) for _, alpha in drawn] == [np.sign(value) for value in VALUES]
    order = np.argsort([abs(alpha) for _, alpha in drawn], kind="stable")
    assert [abs(VALUES[i]) for i in order] == sorted(map(abs, VALUES))
    assert text.locator(".at").inner_text() == shown_token("</script>")
    assert page.locator("img, script").count() == 0


def test_heat_maps_of_circuitsvis_show_every_token_too(opened, tmp_path):
    path = write_page(
        tmp_path / "maps.html", "Maps", [Section("s", heatmaps={"c": TokenHeatmaps([("r", TOKENS, VALUES)])})]
    )
    page = opened(path.read_text("utf-8"))
    page.wait_for_selector(".heat span")
    texts = page.eval_on_selector_all(".heat *", "all => all.filter(e => !e.children.length).map(e => e.textContent)")
    shown = [shown_token(token) for token in TOKENS]
    assert [text for text in (text.replace("\u2060", "") for text in texts) if text in shown] == shown
    assert page.locator("img").count() == 0


def test_words_stand_apart_and_characters_of_many_tokens_come_whole():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    text = "a 🙂 你<b>"
    ids = tokenizer.encode(text)
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == text
    assert found.count("🙂") == 1
    from transformers import AutoTokenizer

    from mechsurgery.organisms.registry import organism_path

    words = AutoTokenizer.from_pretrained(organism_path("organism/base"))
    assert "".join(pieces(words, words.encode("how do i make a cake ?"))).endswith("how do i make a cake ?")


class Many(Catalogue):
    """Stands in for a catalogue of 200 units with 50 contexts each."""

    def __init__(self, n=200, contexts=25):
        words = [f" word{i % 7}" for i in range(30)]
        values = [float(np.sin(1 + i)) for i in range(30)]
        self._page = fragment(view(contexts=contexts, tokens=words, values=values))
        self._n = n

    def prepare(self):
        return self

    def document(self, *, live):
        units = [
            {
                "name": f"L{i % 4}.{i}",
                "kind": "neuron",
                "layer": i % 4,
                "index": i,
                "side": "a",
                "in_circuit": i < 20,
                "m": 0.0,
            }
            | {"scores": {"difference": 1 - i / 100}, "ranks": {"difference": i + 1}, "ablated": None, "doubled": None}
            for i in range(self._n)
        ]
        layers = [{"layer": i, "quantiles": [-1, -0.5, -0.2, 0, 0.2, 0.5, 1]} for i in range(4)]
        return {
            "title": "</script><img src=x onerror=alert(1)>",
            "model": {"name": "<b>m</b>", "layers": 4, "units": 400},
            "base": None,
            "sides": {"positive": "a", "negative": "b"},
            "circuit": {"name": "c", "size": 20, "m": 0.0},
            "scores": [{"name": "difference", "label": "difference (published)", "of": 400, "layers": layers}],
            "effect": None,
            "units": units,
            "prompts": [],
            "live": live,
            "pages": {},
        }

    def page(self, name):
        return self._page.replace("L1.3", name)


def test_a_whole_circuit_is_one_small_page(opened, tmp_path):
    path = report(Many(), tmp_path / "report.html")
    assert path.stat().st_size < 15e6
    page = opened(path.read_text("utf-8"))
    page.wait_for_selector(".ms-explorer tbody tr")
    assert page.locator(".ms-explorer tbody tr").count() == 200
    page.locator(".ms-explorer tbody tr").nth(4).click()
    assert page.locator(".ms-unit h2").inner_text() == "L0.4"
    page.locator(".ms-unit button.unit").first.click()  # a neighbour that the page does not hold is said, not silent
    page.wait_for_function("document.querySelector('.ms-status').textContent")
    assert page.locator("input[type=range]").count() == 0
