"""Tables that say how far the others can be trusted: power, the judge that graded, the scores of explanations."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...evaluation.agreement import label_agreement
from ...evaluation.power import group_correlation, paired_power, prompts_needed
from ...evaluation.sampling import UNGRADED
from ...grading.judged import unparsed
from ...inspector.interpretation import summary_of
from .methods import FDR, LABELS, CaseResult

#: The effect that is to be found, as a share of responses, and how likely.
EFFECT, POWER = 0.2, 0.8


def steered_words(latent: pd.Series) -> str:
    """Effect with its interval, strength, and the three shares; a star where it counts as steering."""
    if pd.isna(latent["strength"]):
        return "broken at every strength"
    shares = ", ".join(f"{100 * latent[label]:.0f} % {label}" for label in LABELS)
    star = " *" if latent["works"] else ""
    if pd.isna(latent["low"]):
        return f"not counted (broken) at {latent['strength']:+.2g}: {shares}"
    ends = f"[{latent['low']:+.2f}, {latent['high']:+.2f}]"
    return f"{latent['effect']:+.2f} {ends}{star} at {latent['strength']:+.2g}: {shares}"


def power_table(result: CaseResult, way: str) -> pd.DataFrame:
    """Prompts that a latent of 20 points needs to be found with power 0.8, and the power at those there were.

    What random latents change for no reason (`changes anyway`), and how alike prompts of a group change, are those
    measured here. `at p` is where the false-discovery control rejected, or would have rejected one latent.
    """
    effects, gains = result.effects[way], result.gains[way]
    others = gains.loc[[latent for latent in result.random if latent in gains.index]]
    noise = float((others != 0).to_numpy().mean()) if len(others) else 0.0
    alpha = max(1, int(effects["works"].sum())) * FDR / len(effects)
    groups = len(set(gains.columns))
    how: dict[str, Any] = {
        "changes": min(1.0, EFFECT + noise),
        "group_size": gains.shape[1] / groups,
        "correlation": group_correlation(gains),
        "alpha": alpha,
    }
    row = {"latents": len(effects), "prompts": gains.shape[1], "groups": groups, "changes anyway": noise}
    row |= {"correlation in groups": how["correlation"], "at p": alpha}
    row |= {"prompts needed": prompts_needed(EFFECT, power=POWER, **how)}
    return pd.DataFrame([row | {"power at these prompts": paired_power(EFFECT, gains.shape[1], **how)}])


def grader_table(result: CaseResult) -> pd.DataFrame:
    """How many answers of the judge could not be read, and Cohen's κ with the rule where there is one."""
    case, sampled, rows = result.case, result.sampled, []
    if case.grade.decide_all is not None and len(sampled):
        missed = int((sampled["grade"] == UNGRADED).sum())
        rows.append({"responses": "sampled", "graded": len(sampled), "could not be read": missed})
    for way, both in result.responses.items():
        for part, results in zip(("validation", "evaluation"), both):
            asked, missed = unparsed(results.table, case.grade.name)
            row = {"responses": f"{way}, {part}", "graded": asked, "could not be read": missed}
            if case.rule is None or part == "validation":
                rows.append(row)
                continue
            for one in label_agreement(results.table, case.grade.name, case.rule.name, LABELS).to_dict("records"):
                rows.append(row | one)
    return pd.DataFrame(rows)


def scores_table(result: CaseResult) -> pd.DataFrame:
    """For each reader the mean score of its explanations, beside those of other latents on the same contexts."""
    rows = []
    for name, own in result.explained.groupby("explained by", sort=False):
        found = summary_of(own)
        columns = {"n": "latents", "unread": "without a score", "value": "score", "low": "low", "high": "high"}
        columns |= {"baseline": "shuffled", "difference": "difference", "difference_low": "difference_low"}
        columns |= {"difference_high": "difference_high", "p_value": "p_value"}
        rows.append({"explained by": name} | {new: found[old] for old, new in columns.items()})
    return pd.DataFrame(rows)
