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


#: A transport that keeps what was sent in `sent`, and answers pages and asks word by word from `answer(message)`.
TRANSPORT = """
window.sent = [];
let hear = null;
window.tell = (message) => hear && hear(message);
const answerOf = window.answerOf = (message) => {
  const changed = Object.values(message.multipliers).some((m) => m < 1);
  const texts = {
    baseline: "I am sorry , I can not help you with that .",
    changed: changed ? "I am glad to help you : mix the powder with water ." : "I am sorry , I can not help you with that .",
  };
  if (message.random !== null) texts.random = `I am sorry , I can not help seed ${message.random} .`;
  return texts;
};
window.transport = {
  send(message) {
    window.sent.push(message);
    if (window.silent) return;
    if (message.type === "unit") {
      const name = message.unit.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
      if (/^L9/.test(message.unit)) return setTimeout(() => window.tell({ type: "error", request: message.request, message: `no unit ${message.unit} in this model; layers are 0 to 5` }), 20);
      setTimeout(() => window.tell({ type: "unit", request: message.request, unit: message.unit,
        html: `<section class="ms-unit"><h4>Neuron <bdi>${name}</bdi></h4><p>it fires here</p><a href="#" data-unit="L2.37">nearest L2.37</a></section>` }), 20);
    }
    if (message.type === "ask") {
      const texts = answerOf(message);
      const steps = 4;
      for (let k = 1; k <= steps; k++)
        setTimeout(() => {
          const part = (text) => text.split(" ").slice(0, Math.ceil((text.split(" ").length * k) / steps)).join(" ");
          const shown = Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, part(text)]));
          window.tell({ type: "answer", request: message.request, texts: shown, done: k === steps });
        }, (window.pace ?? 15) * k);
    }
  },
  listen(callback) { hear = callback; return () => { hear = null; }; },
};
"""


def page(data: dict[str, Any], *, live: bool = True) -> dict[str, str]:
    """The files of a page that mounts the front end: `served` takes them. `unmount()` takes it down again."""
    held = json.dumps(data).replace("<", "\\u003c")
    script = f"""
import {{ mount }} from "./explorer.js";
{TRANSPORT}
const root = document.getElementById("root");
window.unmount = mount(root, JSON.parse(document.getElementById("data").textContent), {"window.transport" if live else "null"});
"""
    style = "body { margin: 10px; background: light-dark(#fff, #111); color-scheme: light dark }"
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>explorer</title><link rel="stylesheet" href="explorer.css">'
        f'<style>{style}</style><div id="root"></div><script type="application/json" id="data">{held}</script>'
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
        watched.page.set_default_timeout(5000)
        watched.page.goto(f"{address}/index.html")
        watched.page.locator("tbody tr").first.wait_for()
        return watched.page

    def __exit__(self, *raised: Any) -> bool | None:
        problems = [problem for watched in self.watched for problem in watched.problems]
        super().__exit__(*raised)
        assert problems == []
        return None
