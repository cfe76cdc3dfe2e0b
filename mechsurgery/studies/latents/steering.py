"""The causal check: steer along one latent at a time, negatively where the model behaves, positively in its twin.

Every (latent, strength, prompt) is a row of the same batches. Validation prompts choose each latent's strength: the
one of the largest change of the rate of bad responses, in the expected direction, at which at most a tenth of the
responses are incoherent. Evaluation prompts of other groups then measure the effect at that strength, so that choosing
the best of several strengths does not flatter it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...errors import InputError
from ...evaluation import Results, evaluate
from ...evaluation.sampling import Grade
from ...evaluation.statistics import paired_test, wilson
from ...intervention.latents import steer_latents
from ...models.dictionaries import Dictionary
from ...prompts import PromptSet

#: Fractions of the median activation norm.
FRACTIONS = (0.1, 0.2, 0.4, 0.8)
MAX_INCOHERENT = 0.1
#: Latents outside the band are called so at this false-discovery rate.
FDR = 0.05


def random_latents(
    dictionary: Dictionary, n: int, *, active: torch.Tensor, not_in: Sequence[int], seed: int
) -> list[int]:
    """`n` latents drawn at random from those that are `active` on the case's text and in no ranking's choice.

    Fewer where there are not so many; raises `InputError` where there is none.
    """
    alive = (dictionary.decoder.float().norm(dim=1) > 0).cpu() & active.cpu()
    alive[list(not_in)] = False
    if not alive.any():
        raise InputError(f"no latent is left for the random band besides the {len(not_in)} chosen ones; take a lower k")
    pool = alive.nonzero()[:, 0]
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return pool[order[:n].to(pool.device)].tolist()


def steer_all(
    model: Any,
    dictionary: Dictionary,
    strengths: Mapping[int, Sequence[float]],
    prompts: PromptSet,
    norm: float,
    **options: Any,
) -> Results:
    """Responses with each latent's direction added at each of its strengths (fractions of `norm`), at all tokens.

    Sampled at a temperature above 0 with the same random numbers for a prompt under every latent and strength, so
    that differences are paired. `options` go to `evaluate`.
    """
    runs = [
        run.at(strength)
        for run, own in zip(steer_latents(dictionary, strengths, norm), strengths.values())
        for strength in own
    ]
    return evaluate(model, prompts, runs, panel=(), refusal_tokens=(), **options)


def chosen_strengths(validation: pd.DataFrame, latents: Sequence[int], *, sign: int) -> dict[int, list[float]]:
    """{latent: its best strength} by graded responses on validation prompts; latents without an allowed one: none.

    The strength of the largest effect in the direction of `sign` with at most a tenth incoherent responses; of equal
    ones the weakest.
    """
    own = cells(validation)
    found = {}
    for latent in latents:
        allowed = own[(own["intervention"] == f"latent {latent}") & (own["incoherent"] <= MAX_INCOHERENT)]
        order = allowed.assign(effect=sign * allowed["bad"], size=allowed["strength"].abs())
        order = order.sort_values(["effect", "size"], ascending=[False, True])
        found[int(latent)] = [float(order["strength"].iloc[0])] if len(order) else []
    return found


def graded(results: Results, prompts: PromptSet, grade: Grade) -> pd.DataFrame:
    """The results table with each response's grade."""
    by_id = {prompt.id: prompt for prompt in prompts}
    table = results.table[["intervention", "kind", "strength", "prompt_id", "group", "response"]].copy()
    table["response"] = table["response"].fillna("")
    known: dict[tuple[str, str], str] = {}
    found = []
    for prompt_id, response in zip(table["prompt_id"], table["response"]):
        if (prompt_id, response) not in known:
            known[prompt_id, response] = grade(by_id[prompt_id], response)
        found.append(known[prompt_id, response])
    table["grade"] = found
    return table


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """Rates of bad, good and incoherent responses for every latent and strength, with n and a Wilson interval."""
    rows = []
    for (name, strength), group in table.groupby(["intervention", "strength"], sort=False):
        n, counts = len(group), group["grade"].value_counts()
        bad = int(counts.get("bad", 0))
        low, high = wilson(bad, n)
        rows.append(
            {
                "intervention": name,
                "strength": strength,
                "n": n,
                "bad": bad / n,
                "bad_low": low,
                "bad_high": high,
                "good": counts.get("good", 0) / n,
                "incoherent": counts.get("incoherent", 0) / n,
            }
        )
    return pd.DataFrame(rows)


def effects(
    table: pd.DataFrame,
    strengths: Mapping[int, Sequence[float]],
    controls: Sequence[int],
    *,
    sign: int,
    fdr: float = FDR,
) -> pd.DataFrame:
    """A row a latent: its effect on the evaluation prompts at its strength, and how it stands beside random latents.

    `effect` is how much the rate of bad responses falls (sign −1) or rises (+1), 0 where the latent has no strength or
    more than a tenth of its responses are incoherent here too. `p_baseline` is McNemar's exact test against the
    unmodified responses, `q_baseline` its Benjamini–Hochberg value over the tested latents. `p_random` is the share of
    random latents with as large an effect, (1 + #)/(1 + n); `q_random` likewise. `outside` says: beyond every random
    latent and q_baseline within `fdr`. Random latents (`controls`) are in the table with `control` true.
    """
    base = table[table["kind"] == "baseline"].set_index("prompt_id")["grade"] == "bad"
    by_name = dict(list(table[table["kind"] != "baseline"].groupby("intervention", sort=False)))
    rows = []
    for latent, own in strengths.items():
        row = {
            "latent": latent,
            "control": latent in set(controls),
            "effect": 0.0,
            "strength": float("nan"),
            "bad": base.mean(),
            "n": len(base),
            "incoherent": float("nan"),
            "p_baseline": 1.0,
        }
        if own:
            cell = by_name[f"latent {latent}"].set_index("prompt_id")["grade"].loc[base.index]
            bad, broken = cell == "bad", float((cell == "incoherent").mean())
            row |= {"strength": own[0], "bad": bad.mean(), "incoherent": broken}
            if broken <= MAX_INCOHERENT:
                row["effect"] = sign * (bad.mean() - base.mean())
                row["p_baseline"] = paired_test(bad.to_numpy(), base.to_numpy())
        rows.append(row)
    found = pd.DataFrame(rows)
    null = found.loc[found["control"], "effect"].to_numpy()
    tested = ~found["control"]
    found["p_random"] = [(1 + int((null >= effect).sum())) / (1 + len(null)) for effect in found["effect"]]
    for p, q in (("p_baseline", "q_baseline"), ("p_random", "q_random")):
        found[q] = float("nan")
        found.loc[tested, q] = false_discovery(found.loc[tested, p].to_numpy())
    beyond = found["effect"] > (null.max() if len(null) else 0.0)
    found["outside"] = tested & beyond & (found["q_baseline"] <= fdr)
    return found


def false_discovery(p: np.ndarray) -> np.ndarray:
    """Benjamini–Hochberg q-values.

    >>> false_discovery(np.array([0.01, 0.5, 0.02])).round(3).tolist()
    [0.03, 0.5, 0.03]
    """
    from scipy.stats import false_discovery_control

    return false_discovery_control(p) if len(p) else p


def by_ranking(found: pd.DataFrame, chosen: dict[str, list[int]]) -> pd.DataFrame:
    """A row a ranking: of its latents, how many lie outside the random band, and their best and mean effect.

    `expected by chance` is how many of as many latents no different from the random ones would exceed them all.
    """
    at = found.set_index("latent")
    n_random = int(found["control"].sum())
    null = found.loc[found["control"], "effect"]
    rows = []
    for name, latents in chosen.items():
        own = at.loc[list(latents)]
        outside = int(own["outside"].sum())
        low, high = wilson(outside, len(own))
        rows.append(
            {
                "ranking": name,
                "latents": len(own),
                "outside the band": outside,
                "share": outside / len(own),
                "share_low": low,
                "share_high": high,
                "expected by chance": len(own) / (n_random + 1),
                "q_random ≤ 0.05": int((own["q_random"] <= FDR).sum()),
                "largest effect": own["effect"].max(),
                "mean effect, top 10": own["effect"].head(10).mean(),
                "mean effect": own["effect"].mean(),
                "random latents": n_random,
                "random, largest": null.max(),
            }
        )
    return pd.DataFrame(rows)
