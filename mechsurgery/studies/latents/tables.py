"""The study's tables, from what was measured on each case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...evaluation import Results
from ...evaluation.statistics import benjamini_hochberg, clustered_interval, wilson
from ...grading.grade import Grade
from ...intervention import BASELINE, Intervention
from .methods import ATTRIBUTION, DIFFING, MAX_BROKEN, CaseResult, top_latents

#: Latents of Δ-attribution that are shown one by one.
SHOWN = 10
#: Latents outside the band are called so at this false-discovery rate.
FDR = 0.05


def tables(results: Sequence[CaseResult]) -> dict[str, pd.DataFrame]:
    """All tables by title."""
    by_title = {
        "Pairs: sampled completions by grade": _of_cases(results, pairs_table),
        "Rankings: latents whose steering lies outside the band of random latents": _of_ways(
            results, lambda r, way: by_ranking(r.effects[way], r.chosen)
        ),
        "Best latents: the ten of Δ-attribution, and what steering each does": _of_cases(results, best_table),
        "Oracle: rank correlation with exact removal of one latent": _of_cases(results, correlations_table),
        "Fit: the autoencoder and the probe on each case": _of_cases(results, fit_table),
        "Reading: the best latents by what they are active on": _of_cases(
            results, lambda r: pd.DataFrame([view.summary() for view in r.views])
        ),
        "Steering: every latent at its best strength": _of_ways(results, lambda r, way: r.effects[way]),
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
    parts = [_before(table(r, way), case=r.case.name, steered=way) for r in results for way in r.effects]
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
        for way, effects in result.effects.items():
            of_latent = effects.set_index("latent").loc[latent]
            row[way] = f"{of_latent['effect']:+.2f} at {of_latent['strength']:+.2g}"
            row[way] += " *" if of_latent["outside"] else ""
            if pd.isna(of_latent["strength"]):
                row[way] = "broken at every strength"
        rows.append(row)
    return pd.DataFrame(rows)


def correlations_table(result: CaseResult) -> pd.DataFrame:
    """Rank correlation (Spearman's ρ) of every ranking with the exact effect of removing one latent."""
    from scipy.stats import spearmanr

    exact, rows = result.exact, []
    (site,) = result.scores[ATTRIBUTION].scores
    for name, scores in result.scores.items():
        values = scores.scores[site][list(exact.index)].tolist()
        constant = len(set(values)) < 2 or exact.nunique() < 2  # no order to be correlated
        rho, p = (float("nan"),) * 2 if constant else spearmanr(exact, values)
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
            for way, effects in r.effects.items():
                row[f"{r.case.name}: {way}"] = effects.set_index("latent")["effect"].get(latent, float("nan"))
        rows.append(row)
    shared = len(set(top_latents(both[0], k)) & set(top_latents(both[1], k)))
    return pd.DataFrame(rows).assign(**{f"in both top {k}": [f"{shared} of {k}"] + [""] * (len(rows) - 1)})


def responses(result: CaseResult, way: str, n: int = 5) -> pd.DataFrame:
    """Some evaluation prompts with the responses before and after steering the latent of the largest effect."""
    case, effects = result.case, result.effects[way]
    best = effects[~effects["control"]].sort_values("effect", ascending=False).iloc[0]
    rows = result.responses[way][1].table
    rows = rows[rows["metric"] == case.grade.name].set_index("prompt_id")
    prompts = pd.Series({prompt.id: prompt.text for prompt in case.evaluation}, name="prompt")
    sides = [prompts]
    for when, name in (("before", BASELINE.name), ("after", best["intervention"])):
        said = rows.loc[rows["intervention"] == name, ["response", "label"]]
        sides.append(said.set_axis([f"response {when}", f"grade {when}"], axis=1))
    both = pd.concat(sides, axis=1, join="inner").head(n)
    return both.assign(latent=int(best["latent"]), strength=best["strength"])


def effects_of(results: Results, grade: Grade, runs: Mapping[int, Intervention], *, sign: int) -> pd.DataFrame:
    """A row a latent: its effect on the evaluation prompts at its strength, and how it stands beside random latents.

    `effect`, with its 95 % interval `low` to `high`, is how much the rate of bad responses falls (sign −1) or rises
    (+1): 0 without an interval where the latent has no strength or more than a tenth of its responses are broken
    here too. `p_baseline` is the paired test over groups against the unmodified responses, `q_baseline` its
    Benjamini–Hochberg value over the chosen latents. `p_random` is the share of random latents (`control`) with as
    large an effect, (1 + #)/(1 + n); `q_random` likewise. `outside`: beyond every random latent and q_baseline ≤ `FDR`.
    """
    summary = results.summary([grade.name])
    of_label = {label: rows.set_index("intervention") for label, rows in summary.groupby("label")}
    facts = [(latent, run.name, run.control_of is not None) for latent, run in runs.items()]
    table = pd.DataFrame(facts, columns=["latent", "intervention", "control"])
    base = of_label["bad"].loc[BASELINE.name]
    rows = of_label["bad"].reindex(table["intervention"]).reset_index(drop=True)
    table = table.assign(strength=rows["strength"], baseline=base["value"], bad=rows["value"].fillna(base["value"]))
    table["n"] = rows["n"].fillna(base["n"]).astype(int)
    table["broken"] = table["intervention"].map(of_label["broken"]["value"])
    counted = table["broken"] <= MAX_BROKEN
    table["effect"] = (sign * rows["difference"] + 0.0).where(counted, 0.0)
    low, high = ("difference_low", "difference_high")[::sign]
    table["low"], table["high"] = (sign * rows[low]).where(counted), (sign * rows[high]).where(counted)
    table["p_baseline"] = rows["p_value"].where(counted, 1.0)
    null = table.loc[table["control"], "effect"]
    table["p_random"] = [(1 + int((null >= effect).sum())) / (1 + len(null)) for effect in table["effect"]]
    for name in ("baseline", "random"):
        table[f"q_{name}"] = benjamini_hochberg(table[f"p_{name}"].mask(table["control"]))
    beyond = table["effect"] > (null.max() if len(null) else 0.0)
    return table.assign(outside=~table["control"] & beyond & (table["q_baseline"] <= FDR))


def by_ranking(effects: pd.DataFrame, chosen: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """A row a ranking: of its latents, how many lie outside the random band, and their best and mean effect.

    `expected by chance` is how many of as many latents no different from the random ones would exceed them all.
    """
    of_latent, null = effects.set_index("latent"), effects.loc[effects["control"], "effect"]
    rows = []
    for name, latents in chosen.items():
        ranked = of_latent.loc[list(latents)]
        n, outside = len(ranked), int(ranked["outside"].sum())
        low, high = wilson(outside, n)
        rows.append(
            {"ranking": name, "latents": n, "outside the band": outside}
            | {"share": outside / n, "share_low": low, "share_high": high}
            | {"expected by chance": n / (len(null) + 1), "q_random ≤ 0.05": int((ranked["q_random"] <= FDR).sum())}
            | {"largest effect": ranked["effect"].max(), "mean effect, top 10": ranked["effect"].head(10).mean()}
            | {"mean effect": ranked["effect"].mean(), "random latents": len(null), "random, largest": null.max()}
        )
    return pd.DataFrame(rows)
