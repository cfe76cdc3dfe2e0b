"""Linear probes on units: which direction in activation space tells the two sides of a contrast apart.

Logistic regression on standardised activations of latents, neurons or the residual stream, or several of them
together, with its strength chosen by cross-validation over groups. The two sides are two kinds of prompts
(`fit_probe`), or two ways to answer (`fit_probe_on_examples`): what kind of prompt it is can mostly be read perfectly,
and says nothing of what the model does. The first step of "A Few Bad Neurons" (2601.18939); a probe finds what is
*readable*, which need not be what the model uses.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from ..checks import check_arguments
from ..errors import InputError, needs_extra
from ..models import sites
from ..models.dictionaries import Dictionary
from ..models.protocol import Model
from ..models.turns import in_turn
from ..prompts import ContrastSet, Examples
from ..prompts.chat import Template, as_template
from ..units import UnitScores
from .statistics import example_activations, unit_activations

#: Inverse strengths of regularisation that cross-validation chooses from.
STRENGTHS = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe: w over standardised units, and each unit's mean and standard deviation σ.

    `auroc` is of held-out folds, with a 95 % interval from resampling groups, of which there are `groups`; `null` are
    the same for labels that were shuffled. `decision` is the log-odds of the positive side.
    """

    weights: dict[str, Float[Tensor, " d"]]
    means: dict[str, Float[Tensor, " d"]]
    scales: dict[str, Float[Tensor, " d"]]
    bias: float
    auroc: float
    low: float
    high: float
    n: int
    penalty: str
    strength: float
    info: dict[str, Any] = field(default_factory=dict)
    groups: int = 0
    null: tuple[float, ...] = ()

    def scores(self) -> UnitScores:
        """The weights as scores: large is evidence for the positive side, per standard deviation of the unit."""
        return UnitScores(dict(self.weights), f"probe weight ({self.penalty})", dict(self.info))

    def decision(self, activations: Mapping[str, Float[Tensor, "n d"]]) -> Float[Tensor, " n"]:
        """Log-odds of the positive side for activations at the probe's hook points."""
        parts = [((activations[s] - self.means[s]) / self.scales[s]) @ w for s, w in self.weights.items()]
        return torch.stack(parts).sum(0) + self.bias


@in_turn
def fit_probe(
    model: Model,
    contrast: ContrastSet,
    units: Sequence[str | Dictionary],
    *,
    penalty: str = "l2",
    positions: Literal["last", "mean"] = "last",
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
    seed: int = 0,
    nulls: int = 0,
    template: str | Template = "auto",
    max_rows: int = 64,
) -> Probe:
    """Fit a probe of the contrast's sides on hook points and dictionaries taken together.

    Cross-validation keeps groups together. Raises `InputError` for an unknown penalty or too few groups a
    side, `MissingExtraError` without scikit-learn (extra `probes`).
    """
    _need_sklearn()
    sides = (contrast.positive, contrast.negative)
    found = [
        unit_activations(model, side, units, positions=positions, template=template, max_rows=max_rows)
        for side in sides
    ]
    features = {site: torch.cat([found[0][site], found[1][site]]) for site in found[0]}
    labels = [1] * len(sides[0]) + [0] * len(sides[1])
    groups = [prompt.group for side in sides for prompt in side]
    info = sites.provenance_of(
        model,
        contrast=contrast.name,
        prompts=contrast.digest,
        positions=positions,
        template=as_template(template).facts(),
    )
    how: dict[str, Any] = {"penalty": penalty, "strengths": strengths, "folds": folds, "seed": seed}
    return fit_probe_on(features, labels, groups, nulls=nulls, info=info, **how)


@in_turn
def fit_probe_on_examples(
    model: Model,
    positive: Examples,
    negative: Examples,
    units: Sequence[str | Dictionary],
    *,
    read: Literal["prompt", "last", "completion"] = "completion",
    penalty: str = "l2",
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
    seed: int = 0,
    nulls: int = 0,
    max_rows: int = 64,
) -> Probe:
    """Fit a probe of two ways to answer, as of sycophantic against honest text on the same claims.

    `read` is where activations are read (`example_activations`): before the answer, at its last token, or averaged
    over its tokens. With `nulls`, as many probes are fitted on shuffled labels (`Probe.null`). Raises as `fit_probe`.
    """
    _need_sklearn()
    sides = (positive, negative)
    found = [example_activations(model, side, units, read=read, max_rows=max_rows) for side in sides]
    features = {site: torch.cat([found[0][site], found[1][site]]) for site in found[0]}
    labels = [1] * len(positive) + [0] * len(negative)
    groups = [*positive.groups, *negative.groups]
    info = sites.provenance_of(model, examples=[side.digest for side in sides], read=read)
    how: dict[str, Any] = {"penalty": penalty, "strengths": strengths, "folds": folds, "seed": seed}
    return fit_probe_on(features, labels, groups, nulls=nulls, info=info, **how)


def fit_probe_on(
    features: Mapping[str, Float[Tensor, "n d"]],
    labels: Sequence[int],
    groups: Sequence[str],
    *,
    penalty: str = "l2",
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
    seed: int = 0,
    nulls: int = 0,
    info: dict[str, Any] | None = None,
) -> Probe:
    """The same from activations that were measured before: {hook name: [n, d]}, a label (0, 1) and group a row.

    `nulls` probes of the chosen strength are fitted on labels that are dealt to other rows at random.
    """
    _need_sklearn()
    from threadpoolctl import threadpool_limits

    x, y, own = _checked(features, labels, groups, penalty, folds)
    null = []
    # Hundreds of small fits: threads that wait for each other make them up to ten times slower.
    with threadpool_limits(1):
        outside = _outside(x, y, own, penalty, strengths, folds, seed)
        strength = _best(x, y, own, penalty, strengths, seed)
        scaler, regression = _fitted(x, y, penalty, strength, seed)
        for number in range(nulls):
            dealt = np.random.default_rng([seed, number]).permutation(y)
            null.append(_area(dealt, _outside(x, dealt, own, penalty, (strength,), folds, seed)))
    area, low, high = auroc(y, outside, own, seed=seed)
    widths = [value.shape[1] for value in features.values()]

    def parts(values: Any) -> dict[str, Tensor]:
        return dict(zip(features, torch.tensor(np.asarray(values), dtype=torch.float32).split(widths)))

    return Probe(
        parts(regression.coef_[0]),
        parts(scaler.mean_),
        parts(scaler.scale_),
        float(regression.intercept_[0]),
        area,
        low,
        high,
        len(y),
        penalty,
        strength,
        dict(info or {}),
        len(set(own)),
        tuple(null),
    )


def _outside(x, y, groups, penalty, strengths, folds, seed):
    """The decision on every row of a probe that was fitted, and its strength chosen, without the row's fold."""
    outside = np.zeros(len(y))
    for fit, held in _splits(y, groups, folds, seed):
        chosen = _best(x[fit], y[fit], groups[fit], penalty, strengths, seed)
        scaler, regression = _fitted(x[fit], y[fit], penalty, chosen, seed)
        outside[held] = regression.decision_function(scaler.transform(x[held]))
    return outside


def _area(y, decision) -> float:
    """AUROC as the Mann–Whitney statistic: scikit-learn's is the same, at many times the cost on resamples."""
    from scipy.stats import rankdata

    above = y == 1
    n, m = int(above.sum()), int((~above).sum())
    return float((rankdata(decision)[above].sum() - n * (n + 1) / 2) / (n * m))


def _checked(features, labels, groups, penalty, folds):
    if penalty not in ("l1", "l2") or not features:
        raise InputError(f"penalty={penalty!r} on {len(features)} hook points; give 'l2' or 'l1' and at least one")
    x = torch.cat([value.float() for value in features.values()], 1).numpy()
    y, own = np.asarray(list(labels)), np.asarray(list(groups))
    if set(np.unique(y)) != {0, 1}:
        raise InputError(f"labels of {len(set(labels))} kinds ({sorted(set(labels))}); a probe needs both 0 and 1")
    if len(y) != len(x) or len(own) != len(x):
        raise InputError(f"{len(x)} rows, {len(y)} labels and {len(own)} groups; give one of each a row")
    for side in (0, 1):
        n = len(set(own[y == side]))
        if n < folds:
            raise InputError(f"{n} groups of label {side} for {folds} folds; give more groups or fewer folds")
    return x, y, own


def _need_sklearn() -> None:
    with needs_extra("probes", "a probe"):
        import sklearn  # noqa: F401


def _splits(y, groups, folds, seed):
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(int((y == side).sum()) for side in (0, 1))
    if fewest < folds:
        raise InputError(f"{fewest} rows of one label for {folds} folds; give more rows")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [(fit, held) for fit, held in splitter.split(y, y, groups) if len(set(y[fit])) == 2]


def _best(x, y, groups, penalty, strengths, seed) -> float:
    """The strength with the best mean AUROC over inner folds; ties go to the stronger regularisation."""
    if len(strengths) == 1:
        return float(strengths[0])
    inner = _splits(y, groups, 3, seed)

    def quality(strength: float) -> float:
        found = []
        for fit, held in inner:
            if len(set(y[held])) == 2:
                scaler, regression = _fitted(x[fit], y[fit], penalty, strength, seed)
                found.append(_area(y[held], regression.decision_function(scaler.transform(x[held]))))
        return float(np.mean(found)) if found else 0.0

    return float(max(sorted(strengths), key=lambda c: round(quality(c), 6)))


def _fitted(x, y, penalty, strength, seed):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    options = {"l1_ratio": 1.0, "solver": "liblinear"} if penalty == "l1" else {"solver": "lbfgs"}
    regression = LogisticRegression(C=strength, max_iter=2000, random_state=seed, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        regression.fit(scaler.transform(x), y)
    return scaler, regression


def auroc(
    labels: ArrayLike, decisions: ArrayLike, of: ArrayLike, *, seed: int = 0, resamples: int = 500
) -> tuple[float, float, float]:
    """AUROC with a 95 % percentile interval from drawing the groups (`of`, one a row) with replacement."""
    y, decision, groups = np.asarray(labels), np.asarray(decisions), np.asarray(of)
    if any(one.shape != (y.size,) or one.dtype.kind not in "biufU" for one in (y, decision, groups)):
        raise InputError(f"{y.shape} labels, {decision.shape} decisions and {groups.shape} groups; give one each a row")
    if set(y.tolist()) != {0, 1} or decision.dtype.kind == "U" or not np.isfinite(decision).all():
        raise InputError("an AUROC needs labels 0 and 1, both of them, and finite decisions")
    generator = np.random.default_rng(seed)
    names = np.unique(groups)
    members = {name: np.flatnonzero(groups == name) for name in names}
    found = []
    for _ in range(resamples):
        rows = np.concatenate([members[name] for name in generator.choice(names, len(names))])
        if len(set(y[rows])) == 2:
            found.append(_area(y[rows], decision[rows]))
    low, high = np.percentile(found, [2.5, 97.5])
    return _area(y, decision), float(low), float(high)


check_arguments(__name__)
