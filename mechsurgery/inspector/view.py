"""`UnitView`: what is known of one unit, neuron or latent, as tables, figures and a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..artifacts import write_text
from ..checks import check_arguments
from ..plots import Drawing, draw
from ..plots.heatmaps import TokenHeatmaps
from ..safe_text import visible
from .coordinates import Kind


@dataclass(frozen=True, eq=False)
class UnitView:
    """What is known of one unit. Tables are pandas, `figures()` plotly, `save` writes a page; empty where not measured.

    - `contexts`: where it is most active, over all tokens: source ("prompt" or "response"), side, prompt_id, position,
      token, activation, and the `tokens` around with their `values`.
    - `activations`: at each prompt's last token: model, side, prompt_id, activation.
    - `ranks`: rule, score, rank (1 is the top by |score|), of.
    - `writes`: token, value; `reads`: part, token, cosine. `neighbours`: by, unit, value.
    - `effects`: m, value (mean of `effect_name`); m = 1 is the unmodified model.
    """

    model: str
    name: str
    kind: Kind
    site: str
    index: int
    contexts: pd.DataFrame
    activations: pd.DataFrame
    ranks: pd.DataFrame
    writes: pd.DataFrame
    reads: pd.DataFrame
    neighbours: pd.DataFrame
    effects: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)
    effect_name: str = ""
    neuronpedia: str | None = None

    @property
    def heatmaps(self) -> TokenHeatmaps:
        """Its contexts as token heat maps of CircuitsVis."""
        rows = self.contexts.itertuples()
        return TokenHeatmaps([(f"{r.prompt_id}: {r.activation:.3g}", r.tokens, r.values) for r in rows])

    def effect_at(self, m: float) -> float:
        """How much the behaviour's number changes where this unit alone is multiplied by `m`; NaN if not measured."""
        value = self.effects.set_index("m")["value"] if len(self.effects) else pd.Series(dtype=float)
        return float(value[m] - value[1.0]) if m in value.index else float("nan")

    def summary(self) -> dict[str, Any]:
        """One row for a table: density, strongest context, top and bottom tokens, link."""
        best = self.contexts.iloc[0] if len(self.contexts) else None
        order = self.writes.sort_values("value", ascending=False)["token"]
        return {
            "unit": self.name,
            "active on": self.facts.get("density", float("nan")),
            "of tokens": self.facts.get("n_tokens", 0),
            "strongest at": "" if best is None else f"{best['token']!r} in {''.join(best['tokens'])!r}",
            "writes for": " ".join(order.head(5)),
            "writes against": " ".join(order.tail(5)[::-1]),
            "Neuronpedia": self.neuronpedia or "",
        }

    def drawings(self) -> dict[str, Drawing]:
        """The calls that draw what was measured: activations on both sides, ranks, tokens, effects."""
        found: dict[str, Drawing] = {}
        called = f"{self.kind} {self.name}"
        if len(self.activations):
            table = self.activations
            several = table["model"].nunique() > 1
            table = table.assign(label=table["side"] + (", " + table["model"] if several else ""))
            sides = {str(label): part["activation"].tolist() for label, part in table.groupby("label", sort=False)}
            found["activations"] = draw("activation_histogram", sides, about=called)
        if len(self.ranks):
            found["ranks"] = draw("score_ranks", self.ranks, about=called)
        if len(self.writes):
            what = {"x_title": "cosine of decoder and unembedding"} if self.kind == "latent" else {}
            tokens = self.writes.rename(columns={"value": "logit"})
            found["tokens"] = draw("promoted_tokens", tokens, about=called, **what)
        if len(self.effects):
            found["effects"] = draw("dose_response", self.effects, what=self.effect_name, about=f"{called} alone")
        return found

    def figures(self) -> dict[str, Any]:
        """Plotly figures of what was measured: activations on both sides, ranks, tokens, effects."""
        return {name: drawing.figure() for name, drawing in self.drawings().items()}

    def save(self, path: str | Path) -> Path:
        """Write its page as one HTML file that needs no network and no other file."""
        from .fragment import standalone

        return write_text(path, standalone(self))

    def _repr_html_(self) -> str:
        from .fragment import fragment, style

        return f"<style>{style()}</style>{fragment(self)}"

    def __repr__(self) -> str:
        return visible(f"UnitView of {self.kind} {self.name} at {self.site} in {self.model}")


def neighbours(similar: pd.DataFrame | None, together: pd.DataFrame | None) -> pd.DataFrame:
    """Units that write alike (unit, cosine) and fire alike (unit, correlation) as one table: by, unit, value."""
    parts = [
        table.rename(columns={column: "value"}).assign(by=by)
        for by, table, column in (("write direction", similar, "cosine"), ("co-activation", together, "correlation"))
        if table is not None
    ]
    columns = ["by", "unit", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


check_arguments(__name__)
