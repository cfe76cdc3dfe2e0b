"""A unit is a coordinate at a named hook point: a neuron, an SAE latent, a residual channel.

`UnitScores` gives every unit of some hook points a number, `Circuit` is a sparse set of units. Both are the
same for every method, so selecting, set algebra, controls, saving and plotting are written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .artifacts import INDICES, NUMBERS, load_tensors, save_tensors
from .checks import check_arguments
from .errors import ActivationError, InputError, MismatchError, SiteError, listed
from .names import expert_of, layer_of
from .reading import readable
from .safe_text import html_note, html_table

Sign = Literal["abs", "positive", "negative"]
#: More units than any hook point has.
_WIDEST = 1 << 31


@dataclass(frozen=True, eq=False)
class UnitScores:
    """A number for every unit: `{hook name: [d]}`, by a named rule, with where it came from.

    Raises `ActivationError` where a score is NaN or infinite, `InputError` where there are none.
    """

    scores: dict[str, Float[Tensor, " d"]]
    rule: str
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scores:
            raise InputError("scores of no hook points; give at least one {hook name: tensor}")
        for site, values in self.scores.items():
            if not values.numel():
                raise InputError(f"no scores at {site!r}; give a number for each of its units, or leave it out")
            bad = int((~torch.isfinite(values)).sum())
            if bad:
                raise ActivationError(
                    f"{bad} of {values.numel()} scores at {site!r} are NaN or infinite; "
                    "check the model's dtype (bfloat16 or float32 instead of float16) and its weights"
                )

    @property
    def widths(self) -> dict[str, int]:
        """How many units each hook point has."""
        return {site: values.numel() for site, values in self.scores.items()}

    def __len__(self) -> int:
        return sum(self.widths.values())

    @property
    def _unscored(self) -> list[str]:
        """Experts that too few tokens were routed to for a score; their zeros mean nothing."""
        return [site for site in self.info.get("unscored", ()) if site in self.scores]

    def top(
        self,
        *,
        fraction: float | None = None,
        k: int | None = None,
        by: Sign = "abs",
        per: Literal["model", "layer"] = "model",
        layers: Iterable[int] | None = None,
        skip_layers: Iterable[int] = (),
        exclude: Circuit | None = None,
        name: str | None = None,
    ) -> Circuit:
        """The highest-ranking units as a `Circuit`.

        Give either `fraction` (of all scored units, in (0, 1]; 0.001 is the CNA paper's 0.1 %) or a number
        `k`; `per="layer"` applies it to each hook point by itself. `by` ranks by absolute score, or keeps
        only one sign. `layers`, `skip_layers` and `exclude` (e.g. universal neurons) leave units out before
        ranking, so the budget stays the same. Ties go to the earlier layer and the lower index.
        """
        if exclude is not None:
            exclude.require_widths(self.widths, "the scores")
        allowed = self._allowed_sites(layers, skip_layers)
        ranked = {}
        for site in allowed:
            value = self.scores[site].float().cpu()
            key = {"abs": value.abs(), "positive": value, "negative": -value}[by].clone()
            if by != "abs":
                key[key <= 0] = -torch.inf
            if exclude is not None and site in exclude.units:
                key[exclude.units[site][0]] = -torch.inf
            if site in self._unscored:
                key[:] = -torch.inf
            ranked[site] = key
        groups = [[site] for site in allowed] if per == "layer" else [allowed]
        units: dict[str, tuple[Tensor, Tensor]] = {}
        for sites in groups:
            total = self.widths[sites[0]] if per == "layer" else len(self)
            budget = _budget(fraction, k, total)
            order = torch.cat([ranked[site] for site in sites]).sort(descending=True, stable=True)
            chosen = order.indices[:budget][order.values[:budget] > -torch.inf]
            start = 0
            for site in sites:
                local = chosen[(chosen >= start) & (chosen < start + self.widths[site])] - start
                start += self.widths[site]
                if len(local):
                    local = local.sort().values
                    units[site] = (local, self.scores[site].float().cpu()[local])
        chosen_by = {"fraction": fraction, "k": k, "by": by, "per": per, "skip_layers": sorted(skip_layers)}
        never = {} if exclude is None else {site: indices for site, (indices, _) in exclude.units.items()}
        never |= {site: torch.arange(self.widths[site]) for site in self._unscored}
        return Circuit(units, self.widths, name or self.rule, {**self.info, "rule": self.rule, "top": chosen_by}, never)

    def _allowed_sites(self, layers: Iterable[int] | None, skip_layers: Iterable[int]) -> list[str]:
        known = {layer_of(site) for site in self.scores}
        wanted = known if layers is None else set(layers)
        skip = set(skip_layers)
        if (wanted | skip) - known:
            raise SiteError(
                f"no scores for layer {listed(sorted((wanted | skip) - known))}; scored: {listed(sorted(known), 100)}"
            )
        allowed = [site for site in self.scores if layer_of(site) in wanted - skip]
        if not allowed:
            raise InputError("layers and skip_layers leave no layer to choose from; leave out fewer")
        return allowed

    def score_of(self, site: str, index: int) -> float:
        """One unit's score. Raises `SiteError` where there is no such unit."""
        if site not in self.scores or not 0 <= index < self.scores[site].numel():
            raise SiteError(f"no score for unit {index} at {site!r}; scored hook points: {listed(self.scores)}")
        return float(self.scores[site][index])

    def rank_of(self, site: str, index: int, *, by: Sign = "abs") -> int:
        """How many units stand before this one (0 is the top)."""
        self.score_of(site, index)
        sign = {"abs": torch.abs, "positive": lambda x: x, "negative": torch.neg}[by]
        own = sign(self.scores[site][index].float())
        return sum(int((sign(values.float()) > own).sum()) for values in self.scores.values())

    def to_frame(self) -> pd.DataFrame:
        """A pandas table: site, layer, neuron, score; a row per unit. With experts also how many prompts reached them.

        Those columns are expert, n_positive and n_negative; experts without a score have NaN.
        """
        known = {site: (torch.arange(v.numel()), v) for site, v in self.scores.items()}
        return _frame(
            known | {site: (known[site][0], known[site][1] * torch.nan) for site in self._unscored}, self.info
        )

    def save(self, path: str | Path) -> Path:
        """Write as one safetensors file."""
        return save_tensors(path, "UnitScores", self.scores, {"rule": self.rule, "info": self.info})

    @classmethod
    def load(cls, path: str | Path) -> UnitScores:
        """Read what `save` wrote."""
        tensors, facts = load_tensors(path, "UnitScores", {"rule": str, "info": dict[str, Any]}, lambda _: NUMBERS)
        ordered = dict(sorted(tensors.items(), key=lambda item: (layer_of(item[0]), expert_of(item[0]) or 0, item[0])))
        with readable(path, "UnitScores"):
            return cls(ordered, facts["rule"], facts["info"])

    def _repr_html_(self) -> str:
        best = self.to_frame().assign(size=lambda t: t.score.abs()).nlargest(10, "size").drop(columns="size")
        head = f"UnitScores by {self.rule}: {len(self):,} units at {len(self.scores)} hook points"
        return html_note(head) + html_table(best, float_format="{:.4g}".format)


@dataclass(frozen=True, eq=False)
class Circuit:
    """A sparse set of units: `{hook name: (sorted indices, scores)}`.

    `widths` holds every hook point that was searched, also those where nothing was chosen, so that sizes are
    shares of something and random controls can be drawn. `excluded` are the units that could not be chosen, such as
    universal neurons. `a | b`, `a & b` and `a - b` work on units; scores come from the left where it has the unit.
    """

    units: dict[str, tuple[Int[Tensor, " k"], Float[Tensor, " k"]]]
    widths: dict[str, int]
    name: str = "circuit"
    info: dict[str, Any] = field(default_factory=dict)
    excluded: dict[str, Int[Tensor, " e"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [site for site, width in self.widths.items() if not 0 < width < _WIDEST]
        if wrong:
            raise InputError(f"{self.widths[wrong[0]]} units at {wrong[0]!r}; a width is from 1 to {_WIDEST - 1:,}")
        for site, (indices, scores) in self.units.items():
            self._check_units(site, indices)
            if len(scores) != len(indices):
                raise InputError(f"{len(scores)} scores for {len(indices)} units at {site!r}; give one each")
            if not torch.isfinite(scores).all():
                raise ActivationError(f"scores of circuit {self.name!r} at {site!r} are NaN or infinite")
        for site, indices in self.excluded.items():
            self._check_units(site, indices)

    def _check_units(self, site: str, indices: Int[Tensor, " k"]) -> None:
        if site not in self.widths:
            raise SiteError(f"units at {site!r}, which is not among the widths: {listed(self.widths)}")
        outside = indices[(indices < 0) | (indices >= self.widths[site])].tolist()
        if outside:
            raise SiteError(f"no unit {listed(outside)} at {site!r}: it has {self.widths[site]} units")
        if len(indices.unique()) != len(indices):
            raise InputError(f"the same unit stands twice at {site!r}; give each once")
        if (indices.diff() < 0).any():
            raise InputError(f"the units at {site!r} are not sorted; give them in order, each with its own score")

    @classmethod
    def from_indices(
        cls, indices: Mapping[str, Sequence[int]], widths: Mapping[str, int], *, name: str = "circuit", **info: Any
    ) -> Circuit:
        """A circuit of given units, each with score 1.

        >>> Circuit.from_indices({"blocks.0.mlp.hook_post": [3, 1]}, {"blocks.0.mlp.hook_post": 8})
        Circuit 'circuit': 2 of 8 units (25%) in 1 of 1 hook points
        """
        units = {}
        for site, chosen in indices.items():
            if len(chosen):
                index = torch.as_tensor(sorted(int(i) for i in chosen), dtype=torch.long)
                units[site] = (index, torch.ones(len(index)))
        return cls(units, dict(widths), name, dict(info))

    def __len__(self) -> int:
        return sum(len(indices) for indices, _ in self.units.values())

    def __repr__(self) -> str:
        total = sum(self.widths.values())
        share = len(self) / total if total else 0.0
        sites = f"{len(self.units)} of {len(self.widths)} hook points"
        return f"Circuit {self.name!r}: {len(self):,} of {total:,} units ({100 * share:.3g}%) in {sites}"

    @property
    def multipliers(self) -> dict[str, Float[Tensor, " k"]] | None:
        """{hook name: what each unit was multiplied by when it was found}; None where it has no such numbers."""
        known = self.info.get("multipliers")
        if not known or not all(
            str(int(i)) in known.get(site, {}) for site, (index, _) in self.units.items() for i in index
        ):
            return None
        return {
            site: torch.tensor([known[site][str(int(i))] for i in index]) for site, (index, _) in self.units.items()
        }

    def with_multipliers(self, multipliers: Mapping[str, Float[Tensor, " k"]]) -> Circuit:
        """The same units, which know what each is multiplied by; one number for each of the sorted indices."""
        odd = [s for s, (i, _) in self.units.items() if s not in multipliers or len(multipliers[s]) != len(i)]
        if odd:
            raise SiteError(f"multipliers do not fit the units at {listed(odd)}; give one for each unit of the circuit")
        own = {
            site: {str(int(i)): float(m) for i, m in zip(index, multipliers[site], strict=True)}
            for site, (index, _) in self.units.items()
        }
        return replace(self, info={**self.info, "multipliers": own})

    def members(self) -> set[tuple[str, int]]:
        """The units as a plain set of (hook name, index)."""
        return {(site, int(i)) for site, (indices, _) in self.units.items() for i in indices}

    def named(self, name: str) -> Circuit:
        """The same units under another name."""
        return replace(self, name=name)

    def __or__(self, other: Circuit) -> Circuit:
        return self._combine(other, self.members() | other.members(), "|")

    def __and__(self, other: Circuit) -> Circuit:
        return self._combine(other, self.members() & other.members(), "&")

    def __sub__(self, other: Circuit) -> Circuit:
        return self._combine(other, self.members() - other.members(), "-")

    def _combine(self, other: Circuit, members: set[tuple[str, int]], sign: str) -> Circuit:
        shared = {site: width for site, width in self.widths.items() if site in other.widths}
        other.require_widths(shared, f"circuit {self.name!r}")
        score = {**other._score_map(), **self._score_map()}
        widths = {**self.widths, **other.widths}
        units = {}
        for site in widths:
            indices = sorted(i for s, i in members if s == site)
            if indices:
                units[site] = (torch.tensor(indices), torch.tensor([score[site, i] for i in indices]))
        return Circuit(units, widths, f"({self.name} {sign} {other.name})", {"from": [self.info, other.info]})

    def _score_map(self) -> dict[tuple[str, int], float]:
        return {(s, int(i)): float(v) for s, (index, value) in self.units.items() for i, v in zip(index, value)}

    def require_widths(self, widths: Mapping[str, int], what: str) -> None:
        """Raise `MismatchError` unless each of `widths` that this circuit knows has the same size here."""
        for site, width in widths.items():
            if site in self.widths and self.widths[site] != width:
                raise MismatchError(
                    f"circuit {self.name!r} comes from a model with {self.widths[site]} units at {site!r}, "
                    f"{what} has {width}; locate the circuit again on this model"
                )

    def sign(self, by: Literal["positive", "negative"]) -> Circuit:
        """One side of the circuit: the units whose score is above (or below) zero."""
        units = {}
        for site, (indices, scores) in self.units.items():
            keep = scores > 0 if by == "positive" else scores < 0
            if keep.any():
                units[site] = (indices[keep], scores[keep])
        return replace(self, units=units, name=f"{self.name} ({by})")

    def random_like(self, seed: int) -> Circuit:
        """A random circuit with as many units at each hook point, of those that could be chosen; none is its own.

        Where fewer units are left at a hook point than are needed, it draws among its own too.
        """
        generator = torch.Generator().manual_seed(int(seed))
        units = {}
        for site, (indices, _) in self.units.items():
            free = torch.ones(self.widths[site], dtype=torch.bool)
            free[self.excluded.get(site, indices[:0])] = False
            if 2 * len(indices) <= int(free.sum()):
                free[indices] = False
            pool = free.nonzero().squeeze(1)
            chosen = pool[torch.randperm(len(pool), generator=generator)[: len(indices)]].sort().values
            units[site] = (chosen, torch.ones(len(chosen)))
        info = {"random_like": self.name, "seed": seed}
        return Circuit(units, self.widths, f"random like {self.name}, seed {seed}", info, self.excluded)

    def overlap(self, other: Circuit) -> dict[str, float | int]:
        """How much two circuits share, and how much two independent draws would.

        Returns `size`, `other_size`, `shared`, `jaccard`, `expected_shared` (of independent circuits with the
        same number of units at each hook point) and `p_value` (one-sided, hypergeometric over all units).
        """
        from scipy.stats import hypergeom

        shared = len(self & other)
        union = len(self) + len(other) - shared
        total = sum({**self.widths, **other.widths}.values())
        both = [site for site in self.units if site in other.units]
        expected = sum(len(self.units[s][0]) * len(other.units[s][0]) / self.widths[s] for s in both)
        return {
            "size": len(self),
            "other_size": len(other),
            "shared": shared,
            "jaccard": shared / union if union else 0.0,
            "expected_shared": expected,
            "p_value": float(hypergeom.sf(shared - 1, total, len(self), len(other))) if shared else 1.0,
        }

    def per_layer(self) -> pd.DataFrame:
        """A pandas table: layer, site, n, width, share (of the circuit); a row per searched hook point."""
        counts = [len(self.units[site][0]) if site in self.units else 0 for site in self.widths]
        table = {"layer": [layer_of(s) for s in self.widths], "site": list(self.widths), "n": counts}
        frame = pd.DataFrame({**table, "width": list(self.widths.values())})
        return frame.assign(share=frame["n"] / max(1, len(self)))

    def to_frame(self) -> pd.DataFrame:
        """A pandas table: site, layer, neuron, score (and routing counts); a row per unit, highest |score| first."""
        return _frame(self.units, self.info).sort_values("score", key=abs, ascending=False, ignore_index=True)

    def save(self, path: str | Path) -> Path:
        """Write as one safetensors file."""
        tensors = {f"{site}:index": index for site, (index, _) in self.units.items()}
        tensors |= {f"{site}:score": score for site, (_, score) in self.units.items()}
        tensors |= {f"{site}:excluded": index for site, index in self.excluded.items()}
        return save_tensors(path, "Circuit", tensors, {"widths": self.widths, "name": self.name, "info": self.info})

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read what `save` wrote."""
        fields = {"widths": dict[str, int], "name": str, "info": dict[str, Any]}
        leaves = {"index": INDICES, "score": NUMBERS, "excluded": INDICES}
        tensors, facts = load_tensors(path, "Circuit", fields, lambda name: leaves.get(name.rpartition(":")[2]))
        parts: dict[str, dict[str, Tensor]] = {leaf: {} for leaf in leaves}
        for name, tensor in tensors.items():
            site, _, leaf = name.rpartition(":")
            parts[leaf][site] = tensor
        with readable(path, "a Circuit"):
            if parts["index"].keys() != parts["score"].keys():
                raise InputError("its indices and scores are of different hook points")
            sites = [site for site in facts["widths"] if site in parts["index"]]
            sites += [site for site in parts["index"] if site not in facts["widths"]]
            units = {site: (parts["index"][site], parts["score"][site]) for site in sites}
            return cls(units, facts["widths"], facts["name"], facts["info"], parts["excluded"])

    def _repr_html_(self) -> str:
        return html_note(repr(self)) + html_table(self.to_frame().head(20), float_format="{:.4g}".format)


def _frame(units: Mapping[str, tuple[Tensor, Tensor]], info: Mapping[str, Any]) -> pd.DataFrame:
    rows: dict[str, list[Any]] = {"site": [], "layer": [], "neuron": [], "score": []}
    for site, (indices, scores) in units.items():
        rows["site"] += [site] * len(indices)
        rows["layer"] += [layer_of(site)] * len(indices)
        rows["neuron"] += indices.tolist()
        rows["score"] += scores.float().tolist()
    frame = pd.DataFrame(rows)
    routed = info.get("routed")
    if routed:
        frame["expert"] = pd.array([expert_of(site) for site in rows["site"]], dtype="Int64")
        for side, column in enumerate(("n_positive", "n_negative")):
            counts = [routed[site][side] if site in routed else None for site in rows["site"]]
            frame[column] = pd.array(counts, dtype="Int64")
    return frame


def _budget(fraction: float | None, k: int | None, total: int) -> int:
    if fraction is not None and k is None:
        if not 0 < fraction <= 1:
            raise InputError(f"fraction={fraction} is outside (0, 1]; 0.001 chooses 0.1 % of the units")
        return max(1, round(fraction * total))
    if k is None or fraction is not None:
        raise InputError(f"give either fraction or k, not both or neither (fraction={fraction}, k={k})")
    if k < 1 or k > total:
        raise InputError(f"k={k} is outside 1 … {total}, the number of units; give a number within")
    return k


check_arguments(__name__)
