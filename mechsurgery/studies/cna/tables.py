"""The paper's tables from summaries, with what every response is, n, intervals and the controls it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from ...attribution.compare import in_last_tenth, p_value_within_layers
from ...evaluation import Results, pool_controls, summarise
from ...evaluation.agreement import agreement
from ...evaluation.change import CHANGES, response_changes
from ...evaluation.select import controls_of, select
from ...evaluation.statistics import mean_interval
from ...evaluation.verdicts import HELD, cell, empirical_p
from ...grading.grade import Grade, Outcome
from ...grading.refusal import PANEL
from ...units import Circuit
from .data import CONTROLLED
from .methods import CAA_MLP, CNA
from .published import anchor

#: Metric, prompt set and column of Table 2, after the outcomes.
_COLUMNS = (
    ("quality", "behaviour", "quality"),
    ("tokens", "behaviour", "length (tokens)"),
    ("strongreject", "behaviour", "StrongREJECT"),
    ("kl", "benign", "KL on benign (nats)"),
    ("choice", "choices", "multiple choice"),
)
_SHOWN = ["intervention", "toward", "m", "n", "value", "low", "high", "difference", "p_value"]
#: The claim that Table 1 is about; over several models it is counted.
HALVES = "ablating the circuit at least halves the behaviour"


def table_1(
    summaries: Mapping[str, pd.DataFrame], grade: Grade, circuits: Mapping[str, Sequence[Circuit]]
) -> pd.DataFrame:
    """Before → after for every mode, prompt set and outcome: rates in percent with 95 % intervals, and random circuits.

    `circuits` are those of each mode, one for each fold; `k` is the mean of their sizes. Random circuits stand beside
    the circuit on fewer prompts, the same for all: see `random_circuits`.
    """
    random = random_circuits(summaries, grade).set_index(["mode", "prompts", "response"])
    rows = []
    for mode, summary in summaries.items():
        k = float(np.mean([len(circuit) for circuit in circuits[mode]]))
        known = anchor(str(summary["model"].iloc[0]))
        for prompts in CONTROLLED:
            for label in grade.outcome:
                shown = select(summary, grade.name, prompts, label, intervention=CNA)
                after = shown[shown["toward"] == -1].iloc[0]
                beside = random.loc[(mode, prompts, label)]
                is_paper = prompts == "behaviour" and label == grade.outcome.shows
                rows.append(
                    {
                        "mode": mode,
                        "model": after["model"],
                        "k": k,
                        "of all neurons %": 100 * k / sum(circuits[mode][0].widths.values()),
                        "prompts": prompts,
                        "response": label,
                        "n": int(after["n"]),
                        "before %": 100 * after["baseline"],
                        "before 95 %": _interval(after, "baseline_"),
                        "after %": 100 * after["value"],
                        "after 95 %": _interval(after),
                        "reduction %": _reduction(after) if is_paper else np.nan,
                        "p (paired)": after["p_value"],
                        "random circuits %": f"{beside['mean %']:.1f} [{beside['min %']:.1f}, {beside['max %']:.1f}]",
                        "p (random)": beside["p"],
                        "paper": _of_hundred(known[1].refusals_before, known[1].refusals_after)
                        if known and is_paper
                        else "",
                    }
                )
    return pd.DataFrame(rows)


def random_circuits(summaries: Mapping[str, pd.DataFrame], grade: Grade) -> pd.DataFrame:
    """The circuit ablated beside its matched random circuits on the same prompts: their whole distribution, and p.

    p is the share of all of them, the circuit among them, that go at least as far in the direction `further`.
    """
    rows = []
    for mode, summary in summaries.items():
        for prompts, on in CONTROLLED.items():
            for label in grade.outcome:
                shown = select(summary, grade.name, on, label)
                own = shown[shown["intervention"] == CNA].iloc[0]
                values = controls_of(shown, CNA)["value"].to_numpy()
                low, first, middle, third, high = 100 * np.percentile(values, [0, 25, 50, 75, 100])
                up = _further(grade.outcome, prompts, label)
                rows.append(
                    {
                        "mode": mode,
                        "prompts": prompts,
                        "response": label,
                        "n": int(own["n"]),
                        "before %": 100 * own["baseline"],
                        "circuit %": 100 * own["value"],
                        "random circuits": len(values),
                        "mean %": 100 * values.mean(),
                        "min %": low,
                        "lower quartile %": first,
                        "median %": middle,
                        "upper quartile %": third,
                        "max %": high,
                        "further": "more" if up else "fewer",
                        "p": empirical_p(float(own["value"]), list(values), up=up),
                    }
                )
    return pd.DataFrame(rows)


def _further(outcome: Outcome, prompts: str, label: str) -> bool:
    """Whether more of an outcome is further: breaking always; less of the behaviour and more done well where it is."""
    return label == outcome.broken or (label == outcome.well) == (prompts == "behaviour")


def at_full_strength(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows at −1 on the behaviour's axis, or at +1 of interventions that were only pushed toward the behaviour."""
    against = summary.groupby("intervention")["toward"].transform("min") < 0
    return summary[summary["toward"] == np.where(against, -1.0, 1.0)]


def table_2(summaries: Mapping[str, pd.DataFrame], grade: Grade) -> pd.DataFrame:
    """Every method at full strength, against the behaviour where it was tried so, with every outcome and damage."""
    rows = []
    for mode, summary in summaries.items():
        whole = summary[~summary["prompt_set"].isin(CONTROLLED.values())]
        full = pd.concat([whole[whole["kind"] == "baseline"], at_full_strength(whole)])
        for name, part in full.groupby("intervention", sort=False):
            row = {"mode": mode, "model": part["model"].iloc[0], "method": name, "toward": part["toward"].iloc[0]}
            rows.append(row | cells(part, grade) | {"paper": _published(str(row["model"]), str(name))})
    return pd.DataFrame(rows).fillna("")


def cells(part: pd.DataFrame, grade: Grade) -> dict[str, object]:
    """One intervention at one strength as a row: the outcomes on every prompt set, and damage."""
    one = part.set_index(["metric", "prompt_set", "label"])
    of_sets = [
        (grade.name, prompts, label, title)
        for prompts, name in (("behaviour", "{}"), ("benign", "{} on benign"))
        for label, title in ((label, name.format(label)) for label in grade.outcome)
    ]
    columns = [*of_sets, *((metric, prompts, "", title) for metric, prompts, title in _COLUMNS)]
    row: dict[str, object] = {"n": int(one.loc[(grade.name, "behaviour", grade.outcome.well), "n"])}
    return row | {title: cell(one.loc[(m, s, l)], n=False) for m, s, l, title in columns if (m, s, l) in one.index}


def best_strengths(best: Mapping[str, pd.DataFrame], strengths: pd.DataFrame, grade: Grade) -> pd.DataFrame:
    """Every method at the strength that validation prompts choose: what they said, and the evaluation prompts.

    `best` has a summary by what chooses: `chosen`, by what is gained, which is what is done well less what benign
    prompts lose, and `most`, by what is done well alone. Each fold chooses by itself: strengths that differ are listed,
    and what validation said is the mean.
    """
    well = grade.outcome.well
    titles = {"chosen": f"{well} less lost on benign", "most": f"{well}, whatever it costs"}
    rows = []
    for by, summary in best.items():
        said = strengths[strengths[by]].groupby("intervention", sort=False)
        whole = summary[(summary["kind"] != "baseline") & ~summary["prompt_set"].isin(CONTROLLED.values())]
        for name, part in whole.groupby("intervention", sort=False):
            own = said.get_group(name)
            rows.append(
                {
                    "chosen by": titles[by],
                    "method": name,
                    "toward": listed_strengths(own["toward"]),
                    f"{well} (validation) %": 100 * own["well"].mean(),
                    "lost on benign (validation) %": 100 * own["lost"].mean(),
                    **cells(part, grade),
                }
            )
    return pd.DataFrame(rows).fillna("")


def listed_strengths(toward: pd.Series) -> str:
    """The strengths that folds chose, once where all chose the same."""
    return " / ".join(dict.fromkeys(f"{value:g}" for value in toward))


def table_3(summary: pd.DataFrame) -> pd.DataFrame:
    """Multiple-choice accuracy of every method over strength."""
    return summary.loc[summary["metric"] == "choice", ["model", *_SHOWN]].reset_index(drop=True)


def changes(results: Results, grade: Grade, interventions: list[str], m: tuple[float, ...]) -> pd.DataFrame:
    """A summary of what scaling by `m` changes in responses: shares of kinds of change, and edit distance.

    The matched random controls of the interventions are in it too.
    """
    table = results.table
    asked = table["intervention"].isin(["baseline", *interventions]) | table["control_of"].isin(interventions)
    table = table[asked & table["m"].isin([1.0, *m])]
    return summarise(response_changes(table, outcome=grade.name), labels={"change": CHANGES})


def table_4(changed: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Shares of responses by kind of change and mean edit distance: rows per model and m, `value [interval]`."""
    rows = []
    for name, summary in changed.items():
        pooled = pool_controls(summary)
        for (which, m, prompt_set), part in pooled.groupby(["intervention", "m", "prompt_set"], sort=False):
            row = {"model": name, "scaled": which, "m": m, "prompts": prompt_set, "n": int(part["n"].iloc[0])}
            for _, one in part.sort_values("metric", ascending=False, kind="stable").iterrows():
                row[one["label"] or "edit distance"] = cell(one, n=False)
            rows.append(row)
    return pd.DataFrame(rows)


def exchange(summaries: Mapping[str, pd.DataFrame], grade: Grade) -> pd.DataFrame:
    """What responses of base and instruct are with their own and the other's circuit scaled."""
    rows = []
    for name, summary in summaries.items():
        for (scaled, m), part in summary.groupby(["intervention", "m"], sort=False):
            rows.append({"run in": name, "scaled": scaled, "m": m, **cells(part, grade)})
    return pd.DataFrame(rows).fillna("")


def judges(results: Mapping[str, Results], grade: Grade) -> pd.DataFrame:
    """Agreement of the refusal judges on every response: share agreeing, Cohen's κ, refusals each counts.

    The study's own grade is one of them. Empty where they were not asked, as for other behaviours.
    """
    # What has the same name in two modes is not the same intervention: each result keeps its responses apart.
    parts = [one.table.assign(prompt_set=f"{name}: " + one.table["prompt_set"]) for name, one in results.items()]
    table = pd.concat(parts, ignore_index=True)
    table = table[~table["prompt_set"].str.endswith(tuple(CONTROLLED.values()))]
    names = [one.name for one in PANEL if (table["metric"] == one.name).any()]
    if not names:
        return pd.DataFrame()
    first, own = (table[table["metric"] == metric] for metric in ("first_token", grade.name))
    odds = first.assign(metric="judge_first_token", scale="rate", value=(first["value"] > 0).astype(float))
    own = own.assign(
        metric="judge_outcome", scale="rate", value=(own["label"] == grade.outcome.shows).astype(float), label=""
    )
    rows = pd.concat([own, table[table["metric"].isin(names)], odds])
    return agreement(rows, ["judge_outcome", *names, *(["judge_first_token"] if len(odds) else [])])


def localisation(circuits: Mapping[str, Circuit]) -> pd.DataFrame:
    """Share of each circuit in every layer, and in the last tenth of layers (Appendix C)."""
    parts = []
    for name, circuit in circuits.items():
        late, expected = in_last_tenth(circuit)
        shares = circuit.per_layer()[["layer", "n", "share"]]
        parts.append(shares.assign(circuit=name, share_in_last_tenth=late / len(circuit), expected=expected))
    table = pd.concat(parts, ignore_index=True)
    return table[["circuit", *(column for column in table.columns if column != "circuit")]]


def folds(circuits: Mapping[str, Circuit], facts: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """How alike the circuits of the folds are: a row for every two, with `facts` on each (numbers of prompts).

    Shared neurons beside how many independent circuits of these sizes within layers would share, and Jaccard's index.
    """
    rows = []
    for (name, one), (other, two) in combinations(circuits.items(), 2):
        alike = one.overlap(two)
        rows.append(
            {
                "fold": name,
                **facts[name],
                "k": len(one),
                "other fold": other,
                "other k": len(two),
                "shared": alike["shared"],
                "expected by chance": alike["expected_shared"],
                "jaccard": alike["jaccard"],
                "p (within layers)": p_value_within_layers(one, two),
            }
        )
    return pd.DataFrame(rows)


def over_models(table: pd.DataFrame, claims: pd.DataFrame) -> pd.DataFrame:
    """Table 1 of several models in one row for each mode and outcome, with bootstrap intervals over models.

    The mean share after ablation, the mean reduction of the behaviour, and for how many models the claim that it is at
    least halved held.
    """
    rows = []
    shown = table[table["prompts"] == "behaviour"]
    for (mode, response), part in shown.groupby(["mode", "response"], sort=False):
        facts = {"mode": mode, "response": response, "models": len(part)}
        for title, column in (("after %", "after %"), ("reduction %", "reduction %")):
            known = part[column].dropna()
            low, high = mean_interval(known) if len(known) else (np.nan, np.nan)
            facts |= {f"mean {title}": known.mean(), f"{title} low": low, f"{title} high": high}
        asked = claims[(claims["mode"] == mode) & (claims["claim"] == HALVES)]
        rows.append(facts | {"models halved": int((asked["verdict"] == HELD).sum())})
    return pd.DataFrame(rows)


def _reduction(row: pd.Series) -> float:
    return float(100 * (1 - row["value"] / row["baseline"])) if row["baseline"] else float("nan")


def _interval(row: pd.Series, of: str = "") -> str:
    return f"[{100 * row[f'{of}low']:.1f}, {100 * row[f'{of}high']:.1f}]"


def _of_hundred(before: int, after: int) -> str:
    return f"{before} → {after} of 100"


def _published(model: str, method: str) -> str:
    known = anchor(model)
    if known is None or method not in (CNA, CAA_MLP):
        return ""
    refusal, quality = known[1].cna if method == CNA else known[1].caa
    return f"{refusal:g} % / {quality:.3f}"
