"""The study's tables, from what was measured on each case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...evaluation.statistics import clustered_interval
from .claims import claims
from .measure import CaseResult
from .methods import ATTRIBUTION, DIFFING, top_latents
from .steering import by_ranking

#: Latents of Δ-attribution that are shown one by one.
SHOWN = 10


def tables(results: Sequence[CaseResult]) -> dict[str, pd.DataFrame]:
    """All tables by title."""
    by_title = {
        "Claims: the post's claims beside what was measured": claims(results),
        "Pairs: sampled completions by grade": _of_cases(results, pairs_table),
        "Rankings: latents whose steering lies outside the band of random latents": _of_ways(
            results, lambda r, way: by_ranking(r.steering[way].effects, r.chosen)
        ),
        "Best latents: the ten of Δ-attribution, and what steering each does": _of_cases(results, best_table),
        "Oracle: rank correlation with exact removal of one latent": _of_cases(results, correlations_table),
        "Fit: the autoencoder and the probe on each case": _of_cases(results, fit_table),
        "Reading: the best latents by what they are active on": _of_cases(
            results, lambda r: pd.DataFrame([view.summary() for view in r.views])
        ),
        "Steering: every latent at its best strength": _of_ways(results, lambda r, way: r.steering[way].effects),
        "Responses: before and after steering the best latent": _of_ways(results, responses),
    }
    if len(results) > 1:
        by_title["Convergence: latents that explain both cases"] = shared_latents(results[0], results[1])
    return by_title


def _of_cases(results: Sequence[CaseResult], table: Any) -> pd.DataFrame:
    """`table(result)` of every case under each other, with the case's name before."""
    return pd.concat([_before(table(r), case=r.case.name) for r in results], ignore_index=True)


def _of_ways(results: Sequence[CaseResult], table: Any) -> pd.DataFrame:
    """`table(result, way)` of every case and way of steering under each other, with both names before."""
    parts = [_before(table(r, way), case=r.case.name, steered=way) for r in results for way in r.steering]
    return pd.concat(parts, ignore_index=True)


def _before(table: pd.DataFrame, **names: str) -> pd.DataFrame:
    return table.assign(**names)[[*names, *table.columns]]


def pairs_table(result: CaseResult) -> pd.DataFrame:
    """How the model's own samples were graded, and how many pairs that gave."""
    sampled = result.sampled
    row: dict[str, Any] = {"prompts": len(result.case.discovery), "samples": len(sampled), "pairs": result.n_pairs}
    for label in result.case.grade.labels if len(sampled) else ():
        given = (sampled["grade"] == label).to_numpy(dtype=float)
        low, high = clustered_interval(given, sampled["group"].tolist())
        row[label] = f"{100 * given.mean():.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    return pd.DataFrame([row])


def best_table(result: CaseResult) -> pd.DataFrame:
    """The best latents by Δ-attribution with their ranks elsewhere and their steering effects."""
    scores = result.scores
    (site,) = scores[ATTRIBUTION].scores
    rows = []
    for rank, latent in enumerate(result.chosen[ATTRIBUTION][:SHOWN], 1):
        row: dict[str, Any] = {"rank": rank, "latent": latent, ATTRIBUTION: scores[ATTRIBUTION].score_of(site, latent)}
        if DIFFING in scores:
            row["rank by model diffing"] = scores[DIFFING].rank_of(site, latent, by="positive") + 1
        for way, steering in result.steering.items():
            of_latent = steering.effects.set_index("latent").loc[latent]
            star = " *" if of_latent["outside"] else ""
            row[way] = f"{of_latent['effect']:+.2f} at {of_latent['strength']:+.2g}{star}"
        rows.append(row)
    return pd.DataFrame(rows)


def correlations_table(result: CaseResult) -> pd.DataFrame:
    """Rank correlation (Spearman's ρ) of every ranking with the exact effect of removing one latent."""
    from scipy.stats import spearmanr

    exact, rows = result.exact, []
    (site,) = result.scores[ATTRIBUTION].scores
    for name, scores in result.scores.items():
        rho, p = spearmanr(exact, scores.scores[site][list(exact.index)])
        row = {"ranking": name, "rank correlation with exact removal": float(rho), "p": float(p), "n": len(exact)}
        best = scores.rank_of(site, int(exact.idxmax()), by="positive") + 1
        rows.append(row | {"rank of the exactly best latent": best})
    return pd.DataFrame(rows)


def fit_table(result: CaseResult) -> pd.DataFrame:
    """Variance explained and active latents on the case's own text, and the probe's AUROC on held-out folds."""
    probe = result.probe
    scores = {"probe AUROC": probe.auroc, "low": probe.low, "high": probe.high, "probe n": probe.n}
    return pd.DataFrame([result.fit | scores])


def shared_latents(first: CaseResult, second: CaseResult, k: int = 100) -> pd.DataFrame:
    """Latents by the share of both cases that they explain: the smaller of their shares of positive Δ-attribution."""
    both = [r.scores[ATTRIBUTION] for r in (first, second)]
    positive = [values.clamp_min(0) for scores in both for values in scores.scores.values()]
    shares = [values / values.sum().clamp_min(1e-30) for values in positive]
    smaller = shares[0].minimum(shares[1])
    rows = []
    for latent in smaller.argsort(descending=True, stable=True)[:SHOWN].tolist():
        row: dict[str, Any] = {"latent": latent, "share of both": float(smaller[latent])}
        for r, share in zip((first, second), shares):
            row[f"share of {r.case.name}"] = float(share[latent])
            for way, steering in r.steering.items():
                row[f"{r.case.name}: {way}"] = steering.effects.set_index("latent")["effect"].get(latent, float("nan"))
        rows.append(row)
    shared = len(set(top_latents(both[0], k)) & set(top_latents(both[1], k)))
    return pd.DataFrame(rows).assign(**{f"in both top {k}": [f"{shared} of {k}"] + [""] * (len(rows) - 1)})


def responses(result: CaseResult, way: str, n: int = 5) -> pd.DataFrame:
    """Some evaluation prompts with the responses before and after steering the latent of the largest effect."""
    steering, case = result.steering[way], result.case
    effects = steering.effects
    best = effects[~effects["control"]].sort_values("effect", ascending=False).iloc[0]
    rows = steering.evaluation.table
    rows = rows[rows["metric"] == case.grade.name]
    before, after = (
        rows[rows["intervention"] == name].set_index("prompt_id") for name in ("baseline", best["intervention"])
    )
    both = before.join(after[["response", "label"]], rsuffix=" after", how="inner").head(n)
    texts = {prompt.id: prompt.text for prompt in case.evaluation}
    names = {"response": "response before", "label": "grade before", "label after": "grade after"}
    shown = both.rename(columns=names)[["response before", "grade before", "response after", "grade after"]]
    shown.insert(0, "prompt", [texts[i] for i in shown.index])
    return shown.assign(latent=int(best["latent"]), strength=best["strength"])
