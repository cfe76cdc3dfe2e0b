"""What a unit writes and reads, from the weights alone: tokens, and units that write alike."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_arguments
from ..errors import SiteError
from ..models import sites, tokens
from ..models.dictionaries import Dictionary
from ..models.protocol import Model
from ..names import is_heads
from .coordinates import Unit, unit_of


def token_effects(model: Model, site: str, neuron: int, *, top: int = 10) -> pd.DataFrame:
    """The tokens one unit of a neuron's activation raises and lowers most: columns token, logit.

    The logit lens without its nonlinear part: the neuron's output row times the final norm's gain times the
    unembedding, centred over the vocabulary.
    """
    rows = sites.write_weights(model, site)
    if neuron >= len(rows):
        raise SiteError(f"no neuron {neuron} at {site!r}; it has neurons 0 to {len(rows) - 1}")
    effect = sites.direct_logits(model, rows[neuron])
    return extreme_tokens(model, (effect - effect.mean()).float().cpu(), "logit", top)


def decoder_tokens(model: Model, dictionary: Dictionary, latent: int, *, top: int = 8) -> pd.DataFrame:
    """Tokens by cosine of their unembedding (with the final norm's gain) and the latent's decoder direction.

    The `top` highest and lowest, columns token and cosine. What is written to heads or neurons passes the projection
    after them first; a dictionary that writes elsewhere gives an empty table.
    """
    direction = _decoded(model, dictionary, latent)
    if direction is None:
        return pd.DataFrame({"token": [], "cosine": []})
    return extreme_tokens(model, _cosine_with_unembedding(model, direction), "cosine", top)


@torch.no_grad()
def _cosine_with_unembedding(model: Model, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " d_vocab"]:
    logits = sites.direct_logits(model, direction).float()
    lengths = sites.unembedding(model).float().norm(dim=0)
    return (logits / (lengths * direction.norm().to(lengths)).clamp_min(1e-12)).cpu()


def extreme_tokens(model: Model, values: Float[Tensor, " d_vocab"], column: str, top: int) -> pd.DataFrame:
    """The `top` tokens with the highest and with the lowest values, highest first: columns token and `column`."""
    order = values.argsort(descending=True)
    top = min(top, len(order) // 2)
    chosen = [*order[:top].tolist(), *order[-top:].tolist()]
    pieces = [tokens.tokenizer_of(model).decode([token]) for token in chosen]
    return pd.DataFrame({"token": pieces, column: values[chosen].tolist()})


def written(model: Model, unit: Unit) -> Float[Tensor, " d_model"] | None:
    """What one unit of a unit's activation adds to the residual stream; None where that is not one direction."""
    if unit.dictionary is not None:
        return _decoded(model, unit.dictionary, unit.index)
    if unit.kind == "neuron":
        row = sites.write_rows(model, unit.site)[unit.index].cpu()
    else:
        row = torch.zeros(sites.width(model, unit.site))
        row[unit.index] = 1
    return row if row.numel() == model.cfg.d_model else None


def _decoded(model: Model, dictionary: Dictionary, latent: int) -> Float[Tensor, " d_model"] | None:
    rows = sites.to_stream(model, dictionary.write_name, dictionary.decoder[latent][None].cpu())
    return None if rows is None else rows[0].cpu()


def writes(model: Model, unit: Unit, *, top: int = 10) -> pd.DataFrame:
    """The tokens a unit raises and lowers most: columns token and value, highest first.

    For a neuron or channel the change of each logit per unit of activation (`token_effects`), for a latent the cosine
    of its decoder row with the unembedding.
    """
    direction = written(model, unit)
    if direction is None:
        return pd.DataFrame({"token": [], "value": []})
    if unit.kind == "latent":
        return extreme_tokens(model, _cosine_with_unembedding(model, direction), "value", top)
    with torch.no_grad():
        logits = sites.direct_logits(model, direction)
    return extreme_tokens(model, (logits - logits.mean()).float().cpu(), "value", top)


@torch.no_grad()
def reads(model: Model, unit: Unit, *, top: int = 10) -> pd.DataFrame:
    """The tokens whose embedding lies most along and against what a unit reads: columns part, token, cosine.

    A gated neuron reads two directions, "gate" and "up", an ungated one "input", a latent "encoder"; the gain of the
    norm before an MLP is part of them. Deeper layers read much that is no embedding, so this tells less there.
    """
    table = []
    for part, direction in _read_directions(model, unit).items():
        if direction.numel() == model.cfg.d_model:
            cosine = sites.embedding_cosines(model, direction).cpu()
            table.append(extreme_tokens(model, cosine, "cosine", top).assign(part=part))
    columns = ["part", "token", "cosine"]
    return pd.concat(table, ignore_index=True)[columns] if table else pd.DataFrame(columns=columns)


def _read_directions(model: Model, unit: Unit) -> dict[str, Tensor]:
    if unit.kind == "neuron":
        return sites.read_directions(model, unit.site, unit.index)
    encoder = getattr(getattr(unit.dictionary, "sae", None), "W_enc", None)
    if encoder is None or encoder.ndim != 2 or encoder.shape[1] <= unit.index or is_heads(unit.hook_name):
        return {}
    return {"encoder": encoder.detach()[:, unit.index].float()}


@torch.no_grad()
def similar_writers(
    model: Model, units: Sequence[Unit], *, among: Sequence[Dictionary] = (), top: int = 8
) -> dict[Unit, pd.DataFrame]:
    """For each unit, the other neurons and latents that write most nearly along it: columns unit and cosine."""
    known = [unit for unit in units if written(model, unit) is not None]
    if not known:
        return {}
    own = torch.nn.functional.normalize(torch.stack([written(model, unit) for unit in known]), dim=1)
    pools = {site: sites.write_rows(model, site) for site in sites.neuron_sites(model)}
    for dictionary in among:
        written_rows = sites.to_stream(model, dictionary.write_name, dictionary.decoder)
        pools |= {} if written_rows is None else {dictionary.site: written_rows}
    found = [Best(top + 1) for _ in known]
    for site, rows in pools.items():
        cosine = own @ torch.nn.functional.normalize(rows.float().cpu(), dim=1).T
        for best, values in zip(found, cosine):
            best.add(site, values)
    return {unit: best.table(model, unit, among, "cosine") for unit, best in zip(known, found)}


class Best:
    """The units with the largest values, gathered hook point by hook point."""

    def __init__(self, top: int) -> None:
        self.top = top
        self._kept: list[tuple[float, str, int]] = []

    def add(self, site: str, values: Float[Tensor, " d"]) -> None:
        """More candidates: one value for each unit of a hook point."""
        best = values.topk(min(self.top, len(values)))
        self._kept += [(value, site, index) for value, index in zip(best.values.tolist(), best.indices.tolist())]
        self._kept = sorted(self._kept, reverse=True)[: self.top]

    def table(self, model: Model, without: Unit, dictionaries: Sequence[Dictionary], column: str) -> pd.DataFrame:
        """Columns unit and `column`, without the unit itself."""
        rows = [
            (unit_of(model, (site, index), dictionaries).name, value)
            for value, site, index in self._kept
            if (site, index) != without.coordinate and value > 1e-6
        ]
        return pd.DataFrame(rows[: self.top - 1], columns=["unit", column])


def neuronpedia_link(unit: Unit) -> str | None:
    """A latent's page on Neuronpedia, where the autoencoder records an id there."""
    metadata = getattr(getattr(getattr(unit.dictionary, "sae", None), "cfg", None), "metadata", None)
    name = getattr(metadata, "neuronpedia_id", None)
    return f"https://www.neuronpedia.org/{name}/{unit.index}" if name else None


check_arguments(__name__)
