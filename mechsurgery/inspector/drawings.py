"""Small drawings for a unit's page, as SVG text; the paper's figures are plotly (`UnitView.figures`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..checks import check_arguments
from ..safe_text import html_text

_WIDTH, _HEIGHT, _LEFT, _BASE = 300, 74, 8, 22


def number(value: float, *, sign: bool = False) -> str:
    """Three digits, all of them where there are more before the point, and a minus sign that is one.

    >>> number(-0.25)
    '−0.25'
    >>> number(1000)
    '1,000'
    """
    digits = ",.0f" if 999.5 <= abs(value) < 1e5 else ".3g"
    return f"{value:{'+' if sign else ''}{digits}}".replace("-", "−")


def percent(share: float) -> str:
    """A share as per cent, two digits where it is small.

    >>> percent(0.996), percent(0.00012)
    ('99.6 %', '0.012 %')
    """
    value = 100 * share
    return f"{value:.3g} %" if value >= 10 else f"{value:.2g} %"


def histograms(sets: Mapping[str, Sequence[float]], *, low: float, high: float, label: str) -> str:
    """Two distributions on one axis from `low` to `high`, as filled steps; `sets` is {name: values}, at most two."""
    edges = np.linspace(low, high + 1e-9, 31)
    shares = {name: np.histogram(values, edges)[0] / max(1, len(values)) for name, values in sets.items()}
    top = max((float(share.max()) for share in shares.values()), default=1.0) or 1.0
    floor = _HEIGHT - _BASE
    parts = [f"<line class='axis' x1='{_LEFT}' x2='{_WIDTH - _LEFT}' y1='{floor}' y2='{floor}'/>"]
    for kind, share in zip("ab", shares.values()):
        xs = _LEFT + (_WIDTH - 2 * _LEFT) * (edges - low) / max(high - low, 1e-9)
        points = [f"M{xs[0]:.1f} {floor}"]
        for left, right, value in zip(xs, xs[1:], share):
            y = floor - (floor - 4) * float(value) / top
            points.append(f"L{left:.1f} {y:.1f}L{right:.1f} {y:.1f}")
        parts.append(f"<path class='{kind}' d='{''.join(points)}L{xs[-1]:.1f} {floor}Z'/>")
    parts += _ends(low, high)
    return _svg("".join(parts), label)


def curve(xs: Sequence[float], ys: Sequence[float], *, label: str, marks: Mapping[float, str]) -> str:
    """A line through points, the axis written at `marks`, the largest and smallest y (changes, signed) at the left."""
    low, high = min(xs), max(xs)
    bottom, top = min(ys), max(ys)
    spread = (top - bottom) or 1.0
    left, floor = 58, _HEIGHT - _BASE

    def x(value: float) -> float:
        return left + (_WIDTH - left - 12) * (value - low) / ((high - low) or 1.0)

    def y(value: float) -> float:
        return (floor + 8) / 2 if top == bottom else floor - (floor - 8) * (value - bottom) / spread

    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys))
    parts = [f"<line class='axis' x1='{left}' x2='{_WIDTH - 8}' y1='{floor + 4}' y2='{floor + 4}'/>"]
    for at, text in marks.items():
        if low <= at <= high:
            parts.append(f"<line class='grid' x1='{x(at):.1f}' x2='{x(at):.1f}' y1='4' y2='{floor + 4}'/>")
            parts.append(f"<text x='{x(at):.1f}' y='{_HEIGHT - 4}' text-anchor='middle'>{html_text(text)}</text>")
    parts.append(f"<polyline class='line' points='{points}'/>")
    parts += [f"<circle class='dot' cx='{x(a):.1f}' cy='{y(b):.1f}' r='2.6'/>" for a, b in zip(xs, ys)]
    parts += [
        f"<text x='{left - 5}' y='{y(value) + 4:.1f}' text-anchor='end'>{number(value, sign=bool(value))}</text>"
        for value in dict.fromkeys((top, bottom))
    ]
    return _svg("".join(parts), label)


def _ends(low: float, high: float) -> list[str]:
    y = _HEIGHT - 6
    return [
        f"<text x='{_LEFT}' y='{y}'>{number(low)}</text>",
        f"<text x='{_WIDTH - _LEFT}' y='{y}' text-anchor='end'>{number(high)}</text>",
    ]


def _svg(inner: str, label: str) -> str:
    size = f"width='{_WIDTH}' height='{_HEIGHT}' viewBox='0 0 {_WIDTH} {_HEIGHT}'"
    return f"<svg {size} role='img' aria-label='{html_text(label)}'>{inner}</svg>"


check_arguments(__name__, inner=True)
