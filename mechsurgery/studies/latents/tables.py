"""The study's tables, from what was measured on each case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...evaluation import Results
from ...evaluation.statistics import benjamini_hochberg, clustered_interval, wilson
from ...evaluation.verdicts import empirical_p
from ...grading.grade import Grade
from ...intervention import BASELINE, Intervention
from ...reports import responses as read_responses
from .against import compare, rank_correlation
from .checks import grader_table, power_table, scores_table, steered_words
from .convergence import convergence_table, pairs_of, shared_latents
from .methods import ALL_TOKENS, ATTRIBUTION, DIFFING, FDR, LABELS, REMOVED, CaseResult, Way, top_latents

#: Latents of Δ-attribution that are shown one by one.
SHOWN = 10
RANDOM_LATENTS = "random active latents"


def tables(results: Sequence[CaseResult]) -> dict[str, pd.DataFrame]:
    """All tables by title."""
    by_title = {
        "Pairs: sampled completions by grade": _of_cases(results, pairs_table),
        "Rankings: how their latents steer, beside random latents of the same pool": _of_ways(
            results, lambda r, way: by_ranking(r.effects[way], r.gains[way], r.chosen, r.random)
        ),
        "Pool: latents of each ranking that are not active": _of_cases(results, pool_table),
        "Best latents: the ten of Δ-attribution, and what steering each does": _of_cases(results, best_table),
        "Oracle: rank correlation with exact removal of one latent": _of_cases(results, correlations_table),
        "Fit: the autoencoder and the probe on each case": _of_cases(results, fit_table),
        "Reading: the best latents by what they are active on": _of_cases(
            results, lambda r: pd.DataFrame([view.summary() for view in r.views])
        ),
        "Steering: every latent at its best strength": _of_ways(results, lambda r, way: r.effects[way]),
        "Responses: before and after steering the best latent": _of_ways(results, responses),
    }
    by_title["Power: prompts that an effect of 20 points needs"] = _of_ways(results, power_table)
    if any(r.case.rule is not None or r.case.grade.decide_all is not None for r in results):
        by_title["Grader: what the judge said, and its agreement with the rule"] = _of_cases(results, grader_table)
    by_title["Explanations: what a judge says of the best latents"] = _of_cases(results, lambda r: r.explained)
    by_title["Explanation scores: by what explanations predict on held-out text"] = _of_cases(results, scores_table)
    if any(len(r.benchmarks) for r in results):
        by_title["Benchmarks: before and after steering the best latents"] = _of_cases(results, lambda r: r.benchmarks)
    if len(results) > 1:
        by_title["Convergence: latents that steer both of two cases, beside chance"] = convergence_table(results)
        both = pd.concat([shared_latents(*pair) for pair in pairs_of(results)], ignore_index=True)
        by_title["Shared: the best latents of both of two cases, and what steering them does"] = both
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
    row: dict[str, Any] = {"prompts": len(result.case.discovery), "samples": len(sampled)}
    row |= dict(zip(("pairs that give scores", "pairs that check them"), map(len, result.pairs)))
    for label in result.case.grade.labels if len(sampled) else ():
        given = (sampled["grade"] == label).to_numpy(dtype=float)
        low, high = clustered_interval(given, sampled["group"].tolist())
        row[label] = f"{100 * given.mean():.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    return pd.DataFrame([row])


def pool_table(result: CaseResult) -> pd.DataFrame:
    """Of as many latents as each ranking had steered: how many of its nominal best are never active on the text."""
    pool, rows = set(result.pool), []
    for name, latents in result.chosen.items():
        best = top_latents(result.scores[name], len(latents))
        inactive = sum(latent not in pool for latent in best)
        rows.append({"ranking": name, "nominal best": len(best), "of them inactive": inactive, "pool": len(pool)})
    return pd.DataFrame(rows)


def best_table(result: CaseResult) -> pd.DataFrame:
    """The best latents by Δ-attribution, their ranks among the active ones elsewhere, and their steering effects."""
    scores = result.scores
    (site,) = scores[ATTRIBUTION].scores
    rows = []
    for rank, latent in enumerate(result.chosen[ATTRIBUTION][:SHOWN], 1):
        row: dict[str, Any] = {"rank": rank, "latent": latent, ATTRIBUTION: scores[ATTRIBUTION].score_of(site, latent)}
        for said, name in (("rank by all tokens", ALL_TOKENS), ("rank by model diffing", DIFFING)):
            if name in scores:
                row[said] = top_latents(scores[name], len(result.pool), result.pool).index(latent) + 1
        for way, effects in result.effects.items():
            of_latent = effects.set_index("latent").loc[latent]
            row[way] = steered_words(of_latent)
        rows.append(row)
    return pd.DataFrame(rows)


def correlations_table(result: CaseResult) -> pd.DataFrame:
    """Rank correlation (Spearman's ρ) of every ranking with the exact effect of removing one latent.

    Latents are random ones of the pool, pairs others than those that gave the scores; intervals draw latents.
    """
    rows = []
    (site,) = result.scores[ATTRIBUTION].scores
    for name, scores in result.scores.items():
        row: dict[str, Any] = {"ranking": name, "latents": len(result.exact), "pairs": len(result.pairs[1])}
        values = scores.scores[site][list(result.exact.index)].tolist()
        ranked = top_latents(scores, len(result.pool), result.pool)
        for where in REMOVED:
            rho = rank_correlation(result.exact[where].tolist(), values)
            row[f"ρ, {where} tokens"] = "{:.2f} [{:.2f}, {:.2f}]".format(*rho)
            best = int(result.exact[where].idxmax())
            row[f"rank of the exactly best, {where} tokens"] = ranked.index(best) + 1
        rows.append(row)
    return pd.DataFrame(rows)


def fit_table(result: CaseResult) -> pd.DataFrame:
    """Variance explained and active latents on the case's own text, and the probe's AUROC on held-out folds."""
    probe = result.probe
    scores = {"probe AUROC": probe.auroc, "low": probe.low, "high": probe.high, "probe n": probe.n}
    return pd.DataFrame([result.fit | scores])


def responses(result: CaseResult, way: str) -> pd.DataFrame:
    """Some evaluation prompts with the responses before and after steering the latent of the largest effect."""
    best = result.effects[way].sort_values("effect", ascending=False).iloc[0]
    after = result.responses[way][1]
    if best["intervention"] not in set(after.table["intervention"]):
        return pd.DataFrame({"prompt": ["no latent has an allowed strength"]})
    table = read_responses(after, best["intervention"], grade=result.case.grade.name, n=5)
    return table.assign(latent=int(best["latent"]), strength=best["strength"])


def effects_of(
    results: Results, grade: Grade, runs: Mapping[int, Intervention], random: Sequence[int], way: Way, max_broken: float
) -> pd.DataFrame:
    """A row a latent: the three shares on the evaluation prompts at its strength, and its effect.

    `effect`, with its 95 % interval `low` to `high` over groups, is how much the share of wanted responses rises: good
    ones where a behaving model is steered down, bad ones where its twin is steered up. It is 0 without an interval
    where the latent has no allowed strength, or broken responses rise by more than `max_broken` here too. `p` is the
    paired test over groups against the unmodified responses, one-sided since a rise is wanted, `q` its
    Benjamini–Hochberg value over all steered latents, chosen and random (`control`) alike; `works` says that q is at
    most `FDR`.
    `p_random` is the share of random latents with as large an effect, (1 + #)/(1 + n), which needs no prompt to be
    independent of another. Where a judge was asked, `StrongREJECT` is its mean score.
    """
    summary = results.summary([grade.name])
    of_label = {label: rows.set_index("intervention") for label, rows in summary.groupby("label")}
    facts = [(latent, run.name, latent in set(random)) for latent, run in runs.items()]
    table = pd.DataFrame(facts, columns=["latent", "intervention", "control"])
    rows = of_label[way.wanted].reindex(table["intervention"]).reset_index(drop=True)
    base = of_label[way.wanted].loc[BASELINE.name]
    table = table.assign(strength=rows["strength"], n=int(base["n"]), groups=int(base["groups"]))
    for label in LABELS:
        table[label] = table["intervention"].map(of_label[label]["value"])
        table[f"baseline_{label}"] = of_label[label].loc[BASELINE.name, "value"]
    if (results.table["metric"] == "strongreject").any():
        judged = results.summary(["strongreject"]).set_index("intervention")["value"]
        table["StrongREJECT"] = table["intervention"].map(judged)
    counted = table["broken"] - table["baseline_broken"] <= max_broken + 1e-9
    table["effect"] = rows["difference"].where(counted, 0.0)
    table["low"], table["high"] = (rows[f"difference_{end}"].where(counted) for end in ("low", "high"))
    half = rows["p_value"] / 2
    table["p"] = half.where(table["effect"] > 0, 1 - half).where(counted & (table["effect"] != 0), 1.0)
    table["q"] = benjamini_hochberg(table["p"])
    table["works"] = table["q"] <= FDR
    null = table.set_index("latent").loc[table["control"].tolist(), "effect"]
    others = [null.drop(latent, errors="ignore").tolist() for latent in table["latent"]]
    return table.assign(p_random=[empirical_p(e, one, up=True) for e, one in zip(table["effect"], others)])


def gains_of(results: Results, grade: Grade, effects: pd.DataFrame, way: Way) -> pd.DataFrame:
    """A row a latent and a column a prompt, named by its group: what steering changes there; its mean is the effect."""
    rows = results.table[results.table["metric"] == grade.name]
    rows = rows.assign(wanted=(rows["label"] == way.wanted).where(rows["label"] != "").astype(float))
    wide = rows.pivot_table("wanted", "intervention", "prompt_id", sort=False)
    change = wide.sub(wide.loc[BASELINE.name]).reindex(effects["intervention"]).set_axis(effects["latent"])
    change = change.where(effects.set_index("latent")["low"].notna(), 0.0).fillna(0.0)
    groups = rows.drop_duplicates("prompt_id").set_index("prompt_id")["group"]
    return change.set_axis(groups.loc[change.columns], axis=1)


def by_ranking(
    effects: pd.DataFrame, gains: pd.DataFrame, chosen: Mapping[str, Sequence[int]], random: Sequence[int]
) -> pd.DataFrame:
    """A row a ranking: how many of its latents steer, and their mean effect beside that of the random latents.

    `p` divides the ranking's latents and the random ones anew, `q` is its Benjamini–Hochberg value over the rankings.
    The last row is the random latents themselves.
    """
    of_latent, rows = effects.set_index("latent"), []
    for name, latents in {**chosen, RANDOM_LATENTS: random}.items():
        ranked = of_latent.loc[list(latents)]
        n, works = len(ranked), int(ranked["works"].sum())
        low, high = wilson(works, n)
        beside = compare(gains, latents, random)
        rows.append(
            {"ranking": name, "latents": n, "steer": works, "share": works / n if n else float("nan")}
            | {"share_low": low, "share_high": high, "mean effect": ranked["effect"].mean()}
            | {"more than random": beside["difference"], "low": beside["difference_low"]}
            | {"high": beside["difference_high"], "p": beside["p_value"], "largest effect": ranked["effect"].max()}
            | {"mean effect, top 10": ranked["effect"].head(10).mean()}
            | {"mean rise of broken": (ranked["broken"] - ranked["baseline_broken"]).mean()}
            | {"no allowed strength": int(ranked["strength"].isna().sum())}
        )
    return pd.DataFrame(rows).assign(q=lambda table: benjamini_hochberg(table["p"]))
