"""A unit's page as HTML: one fragment for notebooks, the explorer, the web app and saved files; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..checks import check_arguments
from ..plots.heatmaps import shown_token
from ..safe_text import html_text
from . import drawings

if TYPE_CHECKING:
    from .view import UnitView

_STEPS = 15


@cache
def style() -> str:
    """The style sheet of units' pages."""
    return resources.files(__package__).joinpath("static/unit.css").read_text(encoding="utf-8")


def standalone(view: UnitView) -> str:
    """The page of one unit as a whole document that needs nothing else and runs no script."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"><meta name='viewport' "
        f"content='width=device-width'><title>{html_text(view.name)}, {html_text(view.model)}</title>"
        f"<style>body{{margin:1.5em}}{style()}</style></head><body>{fragment(view)}</body></html>"
    )


def fragment(view: UnitView) -> str:
    """The page of one unit. Other units are buttons with `data-unit`, for the explorer to open."""
    parts = [_head(view), _effects(view), _activations(view)]
    beside = [_ranks(view), _neighbours(view, "write direction"), _neighbours(view, "co-activation")]
    parts.append(_side_by_side(beside))
    tokens = [
        _tokens("Writes for", "Writes against", view.writes, "value"),
        *(
            _tokens(f"{part} reads", f"{part} reads against", own, "cosine")
            for part, own in (view.reads.groupby("part", sort=False) if len(view.reads) else ())
        ),
    ]
    parts.append(_side_by_side(tokens))
    for source, title in (("prompt", "Most active in prompts"), ("response", "Most active in its own answers")):
        parts.append(_contexts(view.contexts[view.contexts["source"] == source] if len(view.contexts) else (), title))
    return f"<section class='ms-unit' data-unit='{html_text(view.name)}'>{''.join(parts)}</section>"


def _side_by_side(parts: Iterable[str]) -> str:
    shown = [part for part in parts if part]
    return f"<div class='side-by-side'>{''.join(shown)}</div>" if shown else ""


def _head(view: UnitView) -> str:
    facts = [f"{view.kind} {view.index:,} at {view.site} of {view.model}"]
    if view.facts.get("side"):
        facts.append(f"more active on {view.facts['side']}")
    if "m in the circuit" in view.facts:
        facts.append(f"in the circuit, where it is multiplied by {view.facts['m in the circuit']:.3g}")
    if "density" in view.facts:
        said = "active" if view.kind == "latent" else "above half of its largest activation"
        facts.append(f"{said} on {drawings.percent(view.facts['density'])} of {view.facts['n_tokens']:,} tokens")
    link = ""
    if view.neuronpedia:
        address = html_text(view.neuronpedia)
        link = f" · <a href='{address}' rel='noreferrer' target='_blank'>Neuronpedia</a>"
    told = html_text("; ".join(facts))
    return f"<h2>{html_text(view.name)}</h2><p class='soft'>{told}{link}</p>"


def _effects(view: UnitView) -> str:
    if not len(view.effects):
        return ""
    table = view.effects.sort_values("m")
    alone = f"{view.effect_name}: {drawings.number(_of(table, 1.0))} unmodified"
    changes = [
        f"{drawings.number(view.effect_at(m), sign=True)} {said}" for m, said in ((0.0, "ablated"), (2.0, "doubled"))
    ]
    drawn = drawings.curve(
        table["m"].tolist(),
        (table["value"] - _of(table, 1.0)).tolist(),
        label=f"change of {view.effect_name} over the unit's multiplier",
        marks={-1.0: "m = −1", 0.0: "0", 1.0: "1", 2.0: "2", 3.0: "3"},
    )
    return f"<h3>What scaling it alone does</h3><p>{html_text(', '.join([alone, *changes]))}</p>{drawn}"


def _of(table: pd.DataFrame, m: float) -> float:
    return float(table.loc[table["m"] == m, "value"].iloc[0])


def _activations(view: UnitView) -> str:
    if not len(view.activations):
        return ""
    table, drawn = view.activations, []
    low, high = float(table["activation"].min()), float(table["activation"].max())
    for model, part in table.groupby("model", sort=False):
        sets = {str(side): own["activation"].tolist() for side, own in part.groupby("side", sort=False)}
        said = (f"{side}: mean {drawings.number(sum(v) / len(v))}, n = {len(v)}" for side, v in sets.items())
        means = "; ".join(said)
        picture = drawings.histograms(sets, low=low, high=high, label=f"Activations in {model}: {means}")
        called, told = (f"<p class='soft'>{html_text(text)}</p>" for text in (str(model), means))
        drawn.append(f"<div class='pic'>{called}{picture}{told}</div>")
    sides = [html_text(str(side)) for side in table["side"].unique()]
    key = " against ".join(f"{side} ({colour})" for side, colour in zip(sides, ("orange, solid", "blue, dashed")))
    return f"<h3>Activation at the prompt's last token: {key}</h3>{_side_by_side(drawn)}"


def _ranks(view: UnitView) -> str:
    if not len(view.ranks):
        return ""
    rows = [
        [f"<td>{html_text(r.rule)}</td>", _number(r.score), f"<td class='n'>{r.rank:,} of {r.of:,}</td>"]
        for r in view.ranks.itertuples()
    ]
    return _table("Where it stands", ["rule", "score", "rank"], rows)


def _neighbours(view: UnitView, by: str) -> str:
    own = view.neighbours[view.neighbours["by"] == by]
    if not len(own):
        return ""
    column = {"write direction": "cosine", "co-activation": "correlation"}[by]
    rows = [[_unit(r.unit), _number(r.value)] for r in own.itertuples()]
    title = {"write direction": "Writes most alike", "co-activation": "Fires most alike"}[by]
    return _table(title, ["unit", column], rows)


def _unit(name: str) -> str:
    safe = html_text(name)
    return f"<td><button type='button' class='unit' data-unit='{safe}'>{safe}</button></td>"


def _tokens(above: str, below: str, table: pd.DataFrame, column: str) -> str:
    if not len(table):
        return ""
    half = len(table) // 2
    ordered = table.sort_values(column, ascending=False)
    rows = []
    for up, down in zip(ordered.head(half).itertuples(), ordered.tail(half)[::-1].itertuples()):
        rows.append(
            [_token(up.token), _number(getattr(up, column)), _token(down.token), _number(getattr(down, column))]
        )
    return _table("", [above, "cosine" if column == "cosine" else "", below, ""], rows)


def _token(token: str) -> str:
    return f"<td><span class='tok'>{html_text(shown_token(token))}</span></td>"


def _number(value: float) -> str:
    return f"<td class='n'>{drawings.number(value)}</td>"


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are made and escaped already."""
    numbers = {"score", "rank", "cosine", "correlation", "logit", ""}
    head = "".join(f"<th{' class=n' if name in numbers else ''}>{html_text(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    heading = f"<h3>{html_text(title)}</h3>" if title else ""
    return f"<div>{heading}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _contexts(contexts: Any, title: str) -> str:
    if not len(contexts):
        return ""
    largest = max(max(map(abs, values)) for values in contexts["values"]) or 1.0
    shown = "".join(_context(row, largest) for row in contexts.itertuples())
    note = (
        "<span class='soft'> orange: positive; blue, underlined: negative; the outlined token is the strongest</span>"
    )
    return f"<h3>{html_text(title)}{note}</h3>{shown}"


def _context(row: Any, largest: float) -> str:
    where = " · ".join(filter(None, (drawings.number(row.activation), row.side, row.prompt_id)))
    pieces = []
    for place, (token, value) in enumerate(zip(row.tokens, row.values)):
        pieces.append(heat_token(token, value / largest, strongest=place == row.at))
    return f"<div class='text'><span class='where'>{html_text(where)}</span>{''.join(pieces)}</div>"


def heat_token(token: str, share: float, *, strongest: bool = False) -> str:
    """One token coloured by its share, from −1 to 1, of the strongest activation."""
    step = round(_STEPS * min(1.0, abs(share)))
    shown = shown_token(token) if token else "⋯"
    kinds = [f"{'p' if share > 0 else 'n'}{step}"] if step else []
    kinds += ["neg"] if step and share < 0 else []
    kinds += ["at"] if strongest else []
    text = html_text(shown)
    return f"<i class='{' '.join(kinds)}'>{text}</i>" if kinds else text


check_arguments(__name__, inner=True)
