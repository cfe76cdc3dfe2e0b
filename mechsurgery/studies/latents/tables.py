"""The study's tables, from what was measured on each case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...evaluation.sampling import GRADES
from ...evaluation.statistics import wilson
from ...models.dictionaries import Dictionary
from ..base import FAILED, HELD, UNDECIDED, UNMEASURED
from .ranking import ATTRIBUTION, DIFFING, top_latents
from .steering import by_ranking


def tables(done: Sequence[Any], dictionary: Dictionary) -> dict[str, pd.DataFrame]:
    """All tables by title."""
    made = {
        "Claims: the post's claims beside what was measured": claims(done),
        "Pairs: sampled completions by grade": pairs_table(done),
        "Rankings: latents whose steering lies outside the band of random latents": rankings_table(done),
        "Best latents: the ten of Δ-attribution, and what steering each does": best_table(done),
        "Oracle: rank correlation with exact removal of one latent": correlations_table(done),
        "Fit: the autoencoder and the probe on each case": fit_table(done),
    }
    if len(done) > 1:
        made["Convergence: latents that explain both cases"] = shared_latents(done, dictionary)
    made["Reading: the best latents by what they are active on"] = pd.concat(
        [pd.DataFrame([v.summary() for v in r.views]).assign(case=r.case.name) for r in done], ignore_index=True
    )
    made["Steering: every latent at its best strength"] = pd.concat(
        [found.assign(case=r.case.name, steered=name) for r in done for name, found in r.effects.items()],
        ignore_index=True,
    )
    made["Responses: before and after steering the best latent"] = responses(done)
    return made


def pairs_table(done: Sequence[Any]) -> pd.DataFrame:
    """How the model's own samples were graded, and how many pairs that gave."""
    rows = []
    for r in done:
        n = len(r.sampled)
        row = {"case": r.case.name, "prompts": len(r.case.discovery), "samples": n, "pairs": len(r.pairs)}
        for grade in GRADES if n else ():
            count = int((r.sampled["grade"] == grade).sum())
            low, high = wilson(count, n)
            row[grade] = f"{100 * count / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        rows.append(row)
    return pd.DataFrame(rows)


def rankings_table(done: Sequence[Any]) -> pd.DataFrame:
    """A row per case, direction of steering and ranking."""
    parts = [
        by_ranking(found, r.chosen).assign(case=r.case.name, steered=name)
        for r in done
        for name, found in r.effects.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[["case", "steered", *[c for c in table.columns if c not in ("case", "steered")]]]


def best_table(done: Sequence[Any], n: int = 10) -> pd.DataFrame:
    """The best latents by Δ-attribution with their ranks elsewhere and their steering effects."""
    rows = []
    for r in done:
        site = next(iter(r.scores[ATTRIBUTION].scores))
        for rank, latent in enumerate(r.chosen[ATTRIBUTION][:n], 1):
            row = {
                "case": r.case.name,
                "rank": rank,
                "latent": latent,
                ATTRIBUTION: r.scores[ATTRIBUTION].score_of(site, latent),
            }
            if DIFFING in r.scores:
                row["rank by model diffing"] = r.scores[DIFFING].rank_of(site, latent, by="positive") + 1
            for name, found in r.effects.items():
                own = found.set_index("latent").loc[latent]
                row[name] = f"{own['effect']:+.2f} at {own['strength']:+.2g}" + (" *" if own["outside"] else "")
            rows.append(row)
    return pd.DataFrame(rows)


def correlations_table(done: Sequence[Any]) -> pd.DataFrame:
    """Rank correlation of every ranking with the exact effect of removing one latent, per case."""
    return pd.concat([r.correlations.assign(case=r.case.name) for r in done], ignore_index=True)


def fit_table(done: Sequence[Any]) -> pd.DataFrame:
    """Variance explained and active latents on the case's own text, and the probe's AUROC on held-out folds."""
    return pd.DataFrame(
        {
            "case": r.case.name,
            **r.fit,
            "probe AUROC": r.probe.auroc,
            "low": r.probe.low,
            "high": r.probe.high,
            "probe n": r.probe.n,
        }
        for r in done
    )


def shared_latents(done: Sequence[Any], dictionary: Dictionary, n: int = 10, k: int = 100) -> pd.DataFrame:
    """Latents by the share of both cases that they explain: the smaller of their shares of positive Δ-attribution."""
    site = dictionary.site
    first, second = done[:2]
    shares, tops = [], []
    for r in (first, second):
        positive = r.scores[ATTRIBUTION].scores[site].clamp_min(0)
        shares.append(positive / positive.sum().clamp_min(1e-30))
        tops.append(top_latents(r.scores[ATTRIBUTION], site, k))
    both = shares[0].minimum(shares[1])
    rows = []
    for latent in both.argsort(descending=True, stable=True)[:n].tolist():
        row: dict[str, Any] = {"latent": latent, "share of both": float(both[latent])}
        for r, share in zip((first, second), shares):
            row[f"share of {r.case.name}"] = float(share[latent])
            for name, found in r.effects.items():
                at = found.set_index("latent")
                row[f"{r.case.name}: {name}"] = at.loc[latent, "effect"] if latent in at.index else float("nan")
        rows.append(row)
    table = pd.DataFrame(rows)
    shared = len(set(tops[0]) & set(tops[1]))
    table[f"in both top {k}"] = [f"{shared} of {k}"] + [""] * (len(table) - 1)
    return table


def claims(done: Sequence[Any]) -> pd.DataFrame:
    """What the post found, asked of the measured tables."""
    rows = []
    for r in done:
        for name, found in r.effects.items():
            counts = by_ranking(found, r.chosen).set_index("ranking")
            rows.append({"case": r.case.name, **_beats_diffing(counts, name)})
            rows.append({"case": r.case.name, **_any_outside(counts, name)})
    rows += _provocative(done)
    return pd.DataFrame(rows)


def _beats_diffing(counts: pd.DataFrame, where: str) -> dict[str, str]:
    from scipy.stats import fisher_exact

    claim = f"more of the top latents of Δ-attribution steer than of model diffing ({where})"
    if DIFFING not in counts.index:
        return {"claim": claim, "measured": "no aligned twin was given", "verdict": UNMEASURED}
    cells = [(int(counts.loc[x, "outside the band"]), int(counts.loc[x, "latents"])) for x in (ATTRIBUTION, DIFFING)]
    p = float(fisher_exact([[a, n - a] for a, n in cells]).pvalue)
    more = cells[0][0] / cells[0][1] > cells[1][0] / cells[1][1]
    verdict = UNDECIDED if p > 0.05 else HELD if more else FAILED
    measured = f"{cells[0][0]} of {cells[0][1]} against {cells[1][0]} of {cells[1][1]}, Fisher's exact p = {p:.2g}"
    return {"claim": claim, "measured": measured, "verdict": verdict}


def _any_outside(counts: pd.DataFrame, where: str) -> dict[str, str]:
    own = counts.loc[ATTRIBUTION]
    n, outside, chance = int(own["latents"]), int(own["outside the band"]), float(own["expected by chance"])
    from scipy.stats import binomtest

    p = float(binomtest(outside, n, min(1.0, chance / n), alternative="greater").pvalue)
    return {
        "claim": f"steering single latents of Δ-attribution changes the behaviour ({where})",
        "measured": f"{outside} of {n} beyond every random latent, {chance:.1f} expected by chance, p = {p:.2g}",
        "verdict": HELD if p <= 0.05 else FAILED if outside == 0 else UNDECIDED,
    }


def _provocative(done: Sequence[Any]) -> list[dict[str, str]]:
    claim = "one latent explains both cases: among the ten best of each, and steering it works in both"
    if len(done) < 2:
        return []
    first, second = done[:2]
    both = [latent for latent in first.chosen[ATTRIBUTION][:10] if latent in second.chosen[ATTRIBUTION][:10]]
    works = [
        latent
        for latent in both
        if all(any(f.set_index("latent").loc[latent, "outside"] for f in r.effects.values()) for r in (first, second))
    ]
    measured = f"{len(both)} latents among the ten best of both ({both}), of which steering works in both: {works}"
    return [{"case": "both", "claim": claim, "measured": measured, "verdict": HELD if works else FAILED}]


def responses(done: Sequence[Any], n: int = 5) -> pd.DataFrame:
    """Some evaluation prompts with the responses before and after steering the latent of the largest effect."""
    parts = []
    for r in done:
        texts = {prompt.id: prompt.text for prompt in r.case.evaluation}
        for name, found in r.effects.items():
            best = found[~found["control"]].sort_values("effect", ascending=False).iloc[0]
            table = r.graded[name]
            before = table[table["kind"] == "baseline"]
            after = table[
                (table["intervention"] == f"latent {int(best['latent'])}") & (table["strength"] == best["strength"])
            ]
            joined = before.merge(after, on="prompt_id", suffixes=(" before", " after")).head(n)
            part = joined[["prompt_id", "response before", "grade before", "response after", "grade after"]].copy()
            part.insert(1, "prompt", [texts[i] for i in part["prompt_id"]])
            what = f"latent {int(best['latent'])} at {best['strength']:+.2g}"
            parts.append(part.assign(case=r.case.name, steered=f"{name}: {what}"))
    return pd.concat(parts, ignore_index=True).drop(columns="prompt_id")
