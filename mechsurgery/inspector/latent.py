"""Reading a latent: the contexts it is active in, the tokens it writes for and against, how often it is active."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..models import capture, sites, tokens
from ..models.dictionaries import Dictionary
from ..models.protocol import Model
from ..plots import activation_histogram, promoted_tokens
from ..plots.heatmaps import TokenHeatmaps
from ..prompts import PromptSet, encode
from ..prompts.chat import Template
from .neuron import extreme_tokens


@dataclass(frozen=True, eq=False)
class LatentView:
    """What is known of one latent.

    `contexts` has a row per prompt in which it is most active (prompt_id, text, token, position, activation);
    `tokens` (token, cosine) are those whose unembedding points most along and most against the latent's decoder
    direction; `density` is the share of tokens it is active on, out of `n_tokens`.
    """

    dictionary: str
    site: str
    latent: int
    contexts: pd.DataFrame
    heatmaps: TokenHeatmaps
    tokens: pd.DataFrame
    activations: np.ndarray
    density: float
    n_tokens: int
    neuronpedia: str | None = None

    @property
    def name(self) -> str:
        """Short name, e.g. `latent 812`."""
        return f"latent {self.latent}"

    def figures(self) -> dict[str, Any]:
        """Histogram of its activations where it is active, and the tokens it writes for and against."""
        shown = {"tokens it is active on": self.activations} if len(self.activations) else {}
        figures = {}
        if shown:
            histogram = activation_histogram(shown, title=f"Activation of {self.name}")
            figures["activations"] = histogram.update_xaxes(title_text="activation")
        table = self.tokens.rename(columns={"cosine": "logit"})
        figure = promoted_tokens(table, title=f"Tokens that {self.name} writes for and against")
        figures["tokens"] = figure.update_xaxes(title_text="cosine of decoder and unembedding")
        return figures

    def summary(self) -> dict[str, Any]:
        """One row for a table: density, strongest context, top and bottom tokens, link."""
        best = self.contexts.iloc[0] if len(self.contexts) else None
        order = self.tokens.sort_values("cosine", ascending=False)["token"]
        return {
            "latent": self.latent,
            "active on": self.density,
            "of tokens": self.n_tokens,
            "strongest at": "" if best is None else f"{best['token']!r} in {best['text']!r}",
            "writes for": " ".join(order.head(5)),
            "writes against": " ".join(order.tail(5)[::-1]),
            "Neuronpedia": self.neuronpedia or "",
        }

    def _repr_html_(self) -> str:
        link = ""
        if self.neuronpedia:
            address = html.escape(self.neuronpedia, quote=True)
            link = f" · <a href='{address}'>Neuronpedia</a>"
        head = f"<h4>{html.escape(self.name)} of {html.escape(self.dictionary)}{link}</h4>"
        facts = f"<p>active on {100 * self.density:.2f} % of {self.n_tokens:,} tokens</p>"
        return head + facts + self.heatmaps._repr_html_()


@torch.no_grad()
def inspect_latents(
    model: Model,
    dictionary: Dictionary,
    latents: Sequence[int],
    prompts: PromptSet | Sequence[Sequence[int]],
    *,
    top: int = 8,
    template: str | Template = "auto",
    max_rows: int = 32,
) -> list[LatentView]:
    """Look at some latents on prompts (or on token ids), in one pass over them.

    Only the activations of these latents are kept. Raises `SiteError` for a latent that is none.
    """
    dictionary.check(model)
    wanted = dictionary.check_latents(latents)
    if isinstance(prompts, PromptSet):
        ids, names = encode(tokens.tokenizer_of(model), prompts, template=template), list(prompts.ids)
    else:
        ids = [list(row) for row in prompts]
        names = [str(i) for i in range(len(ids))]
    active = _activations(model, dictionary, wanted, ids, max_rows)
    return [
        _view(model, dictionary, latent, [one[:, column].numpy() for one in active], ids, names, top)
        for column, latent in enumerate(wanted)
    ]


def _activations(
    model: Model, dictionary: Dictionary, wanted: list[int], ids: list[list[int]], max_rows: int
) -> list[torch.Tensor]:
    """[pos, wanted] for every row of tokens."""
    active: list[torch.Tensor] = [torch.empty(0)] * len(ids)

    def keep(site: str, activation: Float[Tensor, "n d"], rows: list[int]) -> None:
        active[rows[0]] = dictionary.encode(activation)[:, wanted].float().cpu()

    capture.stream(model, ids, [dictionary.hook_name], keep, positions="all", max_rows=max_rows)
    return active


def _view(
    model: Model,
    dictionary: Dictionary,
    latent: int,
    active: list[np.ndarray],
    ids: list[list[int]],
    names: list[str],
    top: int,
) -> LatentView:
    tokenizer = tokens.tokenizer_of(model)
    peaks = np.array([float(one.max()) for one in active])
    order = [int(i) for i in np.argsort(-peaks, kind="stable")[:top] if peaks[i] > 0]
    rows, maps = [], []
    for i in order:
        place = int(active[i].argmax())
        pieces = [tokenizer.decode([token]) for token in ids[i]]
        text = tokenizer.decode(ids[i], skip_special_tokens=True)
        rows.append((names[i], text, pieces[place], place, float(peaks[i])))
        maps.append((f"{names[i]}: {peaks[i]:.3g}", pieces, active[i].tolist()))
    joined = np.concatenate(active)
    return LatentView(
        dictionary.name,
        dictionary.site,
        latent,
        pd.DataFrame(rows, columns=["prompt_id", "text", "token", "position", "activation"]),
        TokenHeatmaps(maps),
        decoder_tokens(model, dictionary, latent, top=top),
        joined[joined > 0],
        float((joined > 0).mean()),
        len(joined),
        neuronpedia_link(dictionary, latent),
    )


@torch.no_grad()
def decoder_tokens(model: Model, dictionary: Dictionary, latent: int, *, top: int = 8) -> pd.DataFrame:
    """Tokens by cosine of their unembedding (with the final norm's gain) and the latent's decoder direction.

    The `top` highest and lowest, columns token and cosine. For dictionaries of the residual stream; others write
    through further weights, which the cosine leaves out.
    """
    direction = dictionary.decoder[latent].float()
    if direction.numel() != model.cfg.d_model:
        return pd.DataFrame({"token": [], "cosine": []})
    logits = sites.direct_logits(model, direction).float()
    lengths = sites.unembedding(model).float().norm(dim=0)
    cosine = (logits / (lengths * direction.norm().to(lengths)).clamp_min(1e-12)).cpu()
    return extreme_tokens(model, cosine, "cosine", top)


def neuronpedia_link(dictionary: Dictionary, latent: int) -> str | None:
    """The latent's page on Neuronpedia, where the autoencoder records an id there."""
    metadata = getattr(getattr(dictionary.sae, "cfg", None), "metadata", None)
    name = getattr(metadata, "neuronpedia_id", None)
    return f"https://www.neuronpedia.org/{name}/{latent}" if name else None
