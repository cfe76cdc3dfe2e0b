"""Measure figures as a browser draws them: the box and font of every text, in one headless run for all figures."""

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs
from support.browser import ARGUMENTS, chromium_path

_FLAGS = ("--headless", *ARGUMENTS, "--virtual-time-budget=20000")
#: Pixels of a sentence in Helvetica of 100 px.
_WIDTH = 1979
_SCRIPT = """
const found = {};
const ruler = document.createElement('canvas').getContext('2d'); ruler.font = '100px Helvetica, Arial, sans-serif';
const width = ruler.measureText('The quick brown fox jumps over the lazy dog').width;
async function all() {
  for (const [name, figure] of Object.entries(figures)) {
    const div = document.createElement('div'); document.body.appendChild(div);
    await Plotly.newPlot(div, figure.data, figure.layout, {staticPlot: true});
    const at = div.getBoundingClientRect();
    const texts = [...div.querySelectorAll('svg text')].filter(t => t.textContent.trim()).map(t => {
      const b = t.getBoundingClientRect();
      return {text: t.textContent, font: parseFloat(getComputedStyle(t).fontSize),
              box: [b.left - at.left, b.top - at.top, b.right - at.left, b.bottom - at.top]};
    });
    const legend = div.querySelector('.legend');
    const l = legend ? legend.getBoundingClientRect() : null;
    found[name] = {size: [figure.layout.width, figure.layout.height], texts: texts,
                   legend: l ? [l.left - at.left, l.top - at.top, l.right - at.left, l.bottom - at.top] : null};
    Plotly.purge(div); div.remove();
  }
  const out = document.createElement('script'); out.type = 'application/json'; out.id = 'found';
  out.textContent = JSON.stringify({width, found}).replaceAll('<', '\\\\u003c'); document.body.appendChild(out);
}
all();
"""


def measured(figures: Mapping):
    """{name: {size, texts: [{text, font, box: [left, top, right, bottom]}], legend}} in pixels."""
    path = chromium_path() or pytest.skip("no Chromium to measure figures with")
    drawn = ",".join(f"{json.dumps(name)}: {figure.to_json()}" for name, figure in figures.items()).replace(
        "</", "<\\/"
    )
    body = f"<script>{get_plotlyjs()}</script><script>const figures = {{{drawn}}};{_SCRIPT}</script>"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f"<!doctype html><meta charset='utf-8'><body>{body}</body>", encoding="utf-8")
        command = [path, *_FLAGS, f"--user-data-dir={folder}/profile", "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.findall(r'<script type="application/json" id="found">(.*?)</script>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    told = json.loads(found[0])
    if told["width"] > 1.05 * _WIDTH:
        pytest.skip("no font as narrow as Helvetica, for which figures are laid out (fonts-liberation has one)")
    return told["found"]


def faults(drawn, *, least):
    """What is wrong with a measured figure: small fonts, text off the canvas, texts or legend over each other."""
    width, height = drawn["size"]
    said = []
    texts = drawn["texts"]
    for text in texts:
        left, top, right, bottom = text["box"]
        if text["font"] < least - 0.01:
            said.append(f"{text['text']!r} has a font of {text['font']} px")
        if left < -0.5 or top < -0.5 or right > width + 0.5 or bottom > height + 0.5:
            said.append(f"{text['text']!r} leaves the canvas {width} × {height}: {text['box']}")
    for i, one in enumerate(texts):
        said += [
            f"{one['text']!r} overlaps {other['text']!r}" for other in texts[i + 1 :] if _meet(one["box"], other["box"])
        ]
    return said


def _meet(a, b, slack=1.5):
    """Whether two boxes meet by more than a little."""
    return min(a[2], b[2]) - max(a[0], b[0]) > slack and min(a[3], b[3]) - max(a[1], b[1]) > slack
