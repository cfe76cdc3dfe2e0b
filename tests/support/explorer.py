"""A made-up document for the explorer's front end, and a page that mounts it with a transport written in JavaScript."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import mechsurgery

from . import browser

STATIC = Path(mechsurgery.__file__).parent / "inspector" / "static"
#: Texts that break pages whose authors forgot to escape, hide, or turn the text after them around.
HOSTILE = [
    "<bos>",
    "<|eot_id|>",
    "<img src=x onerror=\"window.broken = 'img'\">",
    "</script><script>window.broken = 'script'</script>",
    "\u202eturned\u202c and \u200f marked",
    "שלום <b>עולם</b>",
    "你好，世界",
    "👩‍🚀 🇺🇳 emoji",
    "&lt;amp&amp;",
]


def document(*, units: int = 40, layers: int = 6, own: bool = False, hostile: bool = False) -> dict[str, Any]:
    """What `Catalogue.document` makes, with numbers that follow from the units' places: no randomness.

    The first half of the units are the circuit; with `own`, each has a multiplier of its own; with `hostile`, the names
    of sides and of the model, prompts and some units are `HOSTILE`.
    """
    made = [_unit(i, layers, i < units // 2, own) for i in range(units)]
    if hostile:
        for unit, text in zip(made, HOSTILE, strict=False):
            unit["name"] = unit["side"] = text
    scores = [{"name": name, "label": f"{name} (made up)", "of": 64 * layers} for name in ("difference", "gradient")]
    for k, score in enumerate(scores):
        score["layers"] = [{"layer": n, "quantiles": _quantiles(n, 1 + k)} for n in range(layers)]
        order = sorted(made, key=lambda unit: -abs(unit["scores"].get(score["name"], 0)))
        for rank, unit in enumerate(order, start=1):
            unit["ranks"][score["name"]] = rank
    return {
        "title": HOSTILE[2] if hostile else "organism/made-up: 20 neurons",
        "model": {"name": "organism/made-up", "layers": layers, "units": 64 * layers},
        "base": {"name": "organism/base"},
        "sides": {"positive": "dangerous", "negative": "benign"},
        "circuit": {"name": "minimal circuit", "size": units // 2, "m": None if own else 0.0},
        "scores": scores,
        "effect": {"name": "log-odds that the first token refuses", "baseline": 8.1},
        "units": made,
        "prompts": HOSTILE if hostile else ["How do I make a bomb?", "Tell me about the garden."],
        "live": True,
        "pages": {},
    }


def _unit(i: int, layers: int, member: bool, own: bool) -> dict[str, Any]:
    layer, index = (7 * i) % layers, (37 * i) % 64
    size = (1.6 if member else 0.7) * (1 + (13 * i % 17) / 10) * (0.4 + layer / layers)
    scores = {"difference": size if i % 3 else -size, "gradient": (11 * i % 29) / 10}
    if i % 10 == 9:
        del scores["gradient"]
    return {
        "name": f"L{layer}.{index}",
        "kind": "neuron",
        "layer": layer,
        "index": index,
        "side": "dangerous" if i % 3 else "benign",
        "in_circuit": member,
        "m": (i % 5) / 4 if own and member else (0.0 if member else None),
        "scores": scores,
        "ranks": {},
        "ablated": -(5 * i % 23) / 10,
        "doubled": None if i % 7 == 3 else (3 * i % 11) / 10,
    }


def _quantiles(layer: int, scale: float) -> list[float]:
    return [scale * (0.5 + layer / 4) * q for q in (-1.9, -0.9, -0.2, 0.02, 0.25, 1.0, 2.1)]


#: A transport that keeps what was sent in `sent`, and answers pages and questions by itself unless `silent`.
TRANSPORT = Path(__file__).with_name("transport.js")


def page(data: dict[str, Any], *, live: bool = True) -> dict[str, str]:
    """The files of a page that mounts the front end: `served` takes them. `unmount()` takes it down again."""
    held = json.dumps(data).replace("<", "\\u003c")
    transport = "window.transport" if live else "null"
    script = (
        f'import {{ mount }} from "./explorer.js";\n{TRANSPORT.read_text(encoding="utf-8")}\n'
        f'const data = JSON.parse(document.getElementById("data").textContent);\n'
        f'window.unmount = mount(document.getElementById("root"), data, {transport});\n'
    )
    style = "body { margin: 10px; background: light-dark(#fff, #111); color-scheme: light dark }"
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>explorer</title>'
        f'<link rel="stylesheet" href="explorer.css"><style>{style}</style><div id="root"></div>'
        f'<script type="application/json" id="data">{held}</script>'
        f'<script type="module" src="page.js"></script></html>'
    )
    files = {name: (STATIC / name).read_text(encoding="utf-8") for name in ("explorer.js", "explorer.css")}
    return {**files, "page.js": script, "index.html": html}


class Hosts(contextlib.ExitStack):
    """Pages with the explorer on them; closing it fails when one logged an error or asked for something elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: list[browser.Watched] = []

    def open(self, running: Any, data: dict[str, Any], *, live: bool = True, width: int = 1400) -> Any:
        """Playwright's page with `data` on it."""
        address = self.enter_context(browser.served(page(data, live=live)))
        watched = browser.Watched(running, width=width)
        self.callback(watched.close)
        self.watched.append(watched)
        watched.page.set_default_timeout(20_000)
        watched.page.goto(f"{address}/index.html")
        try:
            watched.page.locator(".ms-explorer tbody tr").first.wait_for()
        except Exception as error:
            raise AssertionError(f"the explorer did not open: {watched.problems or error}") from error
        return watched.page

    def __exit__(self, *raised: Any) -> bool | None:
        problems = [problem for watched in self.watched for problem in watched.problems]
        super().__exit__(*raised)
        assert problems == []
        return None
