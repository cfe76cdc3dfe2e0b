"""One neuron at a time: its score under every rule, its activations on both sides, the tokens it promotes."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ..attribution import ContrastStatistics, contrast_statistics, last_token_activations, mean_difference_direction
from ..attribution.contrast import RULES, score
from ..models import sites, tokens
from ..models.protocol import Model
from ..names import layer_of
from ..plots import activation_histogram, promoted_tokens, score_ranks
from ..prompts import ContrastSet
from ..prompts.chat import Template
from ..units import UnitScores


@dataclass(frozen=True, eq=False)
class NeuronView:
    """What is known of one MLP neuron. Tables are pandas, `figures()` are plotly."""

    site: str
    neuron: int
    scores: dict[str, UnitScores]
    ranks: pd.DataFrame
    activations: pd.DataFrame
    tokens: pd.DataFrame

    @property
    def name(self) -> str:
        """Short name: layer and index.

        Written as in papers, e.g. `L12.4071`.
        """
        return f"L{layer_of(self.site)}.{self.neuron}"

    def figures(self) -> dict[str, Any]:
        """Activation histogram on both sides, standing under each rule, promoted and suppressed tokens."""
        sides = {str(label): part["activation"].to_numpy() for label, part in self.activations.groupby("side")}
        return {
            "activations": activation_histogram(sides, title=f"Activation of neuron {self.name}"),
            "ranks": score_ranks(self.scores, self.site, self.neuron),
            "tokens": promoted_tokens(self.tokens, title=f"Tokens that neuron {self.name} writes for and against"),
        }

    def _repr_html_(self) -> str:
        parts = [f"<h4>Neuron {html.escape(self.name)} at {html.escape(self.site)}</h4>"]
        parts += [self.ranks.to_html(index=False, float_format="{:.4g}".format)]
        return "".join(parts)


def inspect_neuron(
    model: Model,
    contrast: ContrastSet,
    site: str,
    neuron: int,
    *,
    statistics: ContrastStatistics | None = None,
    template: str | Template = "auto",
    top: int = 10,
) -> NeuronView:
    """Look at MLP neuron `neuron` of hook point `site` (`blocks.{l}.mlp.hook_post`) on a contrast.

    `statistics` of the same contrast are measured unless given. `tokens` are the `top` tokens the neuron's
    output row pushes up and down most, by direct effect on the logits through the final norm's gain
    (cosine-free logit lens; centred over the vocabulary, per unit of activation).
    Raises `SiteError` for an unknown hook point or neuron.
    """
    sites.check_sites(model, [site])
    sites.check_unit(model, site, neuron)
    if statistics is None:
        statistics = contrast_statistics(model, contrast, template=template)
    direction = mean_difference_direction(model, contrast, template=template)
    scores: dict[str, UnitScores] = {
        str(rule): score(statistics, rule, model=model, direction=direction) for rule in RULES
    }
    ranks = pd.DataFrame(
        [
            {"rule": rule, "score": s.score_of(site, neuron), "rank": s.rank_of(site, neuron) + 1, "of": len(s)}
            for rule, s in scores.items()
        ]
    )
    activations = pd.concat(
        [
            last_token_activations(model, side, {site: [neuron]}, template=template).assign(side=name)
            for name, side in (("positive", contrast.positive), ("negative", contrast.negative))
        ],
        ignore_index=True,
    )
    return NeuronView(site, neuron, scores, ranks, activations, token_effects(model, site, neuron, top=top))


def token_effects(model: Model, site: str, neuron: int, *, top: int = 10) -> pd.DataFrame:
    """The tokens one unit of a neuron's activation raises and lowers most: columns token, logit."""
    effect = sites.direct_logits(model, sites.write_weights(model, layer_of(site))[neuron])
    return extreme_tokens(model, (effect - effect.mean()).float().cpu(), "logit", top)


def extreme_tokens(model: Model, values: Float[Tensor, " d_vocab"], column: str, top: int) -> pd.DataFrame:
    """The `top` tokens with the highest and with the lowest values, highest first: columns token and `column`."""
    order = values.argsort(descending=True)
    top = min(top, len(order) // 2)
    chosen = [*order[:top].tolist(), *order[-top:].tolist()]
    pieces = [tokens.tokenizer_of(model).decode([token]) for token in chosen]
    return pd.DataFrame({"token": pieces, column: values[chosen].tolist()})
