"""Explanations of latents in words, scored by what they predict: contexts → explanation → which held-out tokens fire.

A reader explains a latent from tokens at which it is active, and then says, from the explanation alone, at which of
some marked tokens of other texts it is active. The score is the balanced accuracy of that; chance is ½, and what an
explanation of *another* latent scores on the same tokens is the control. `TokenReader` needs no judge: it names the
tokens on which the latent is mostly active. `judge_reader` asks a model.

In the manner of automated interpretability (Bills et al. 2023; detection and fuzzing in Paulo et al. 2024, 2410.13928).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from ..checks import check_arguments
from ..evaluation.statistics import difference_interval, mean_interval, paired_test
from ..models import Model, tokens
from ..models.dictionaries import Dictionary
from ..prompts.sets import first_groups
from .activity import Text, token_activations
from .coordinates import unit_of

#: Tokens that a latent is active on at least this often (of their occurrences) are named by `TokenReader`.
OFTEN = 0.5
#: At most so many tokens are named.
NAMED = 12


@dataclass(frozen=True)
class Context:
    """A token at the end of the text before it, and the latent's activation there."""

    before: str
    token: str
    activation: float


@dataclass(frozen=True, eq=False)
class Contexts:
    """Where a latent is active.

    `shown` are active ones to explain it by, strongest first: the strongest of some texts, and others over the range of
    activations. `held` are as many active as inactive ones of texts of other groups. `counts` are how often each token
    of the texts that `shown` come from was active, and occurred.
    """

    latent: int
    shown: tuple[Context, ...]
    held: tuple[Context, ...]
    counts: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Explanation:
    """What a reader says of a latent: a text, and for `TokenReader` the tokens it names."""

    text: str
    named: frozenset[str] = frozenset()


@runtime_checkable
class Reader(Protocol):
    """Explains latents and predicts from explanations; None where its answer could not be read."""

    @property
    def name(self) -> str:
        """What stands for it in tables."""
        ...

    def explain(self, gathered: Sequence[Contexts]) -> list[Explanation | None]:
        """An explanation of every latent, from `shown` and `counts`."""
        ...

    def predict(self, asked: Sequence[tuple[Explanation, Sequence[Context]]]) -> list[list[bool] | None]:
        """For every explanation at which of its contexts the latent is active."""
        ...


@dataclass(frozen=True)
class TokenReader:
    """The explanation without a judge: the tokens on which the latent is active more often than not."""

    name: str = "tokens, no judge"

    def explain(self, gathered: Sequence[Contexts]) -> list[Explanation | None]:
        """The tokens that it is active on at least `OFTEN`, the commonest first; None where there is none."""
        found: list[Explanation | None] = []
        for one in gathered:
            often = [token for token, (active, times) in one.counts.items() if active and active >= OFTEN * times]
            named = sorted(often, key=lambda token: (-one.counts[token][0], token))[:NAMED]
            words = ", ".join(repr(token.strip() or token) for token in named)
            found.append(Explanation(f"active on {words}", frozenset(named)) if named else None)
        return found

    def predict(self, asked: Sequence[tuple[Explanation, Sequence[Context]]]) -> list[list[bool] | None]:
        """Active where the token is one that is named."""
        return [[context.token in explanation.named for context in contexts] for explanation, contexts in asked]


def gather(
    model: Model,
    dictionary: Dictionary,
    latents: Sequence[int],
    ids: Sequence[Sequence[int]],
    groups: Sequence[str],
    *,
    n_top: int = 6,
    n_spread: int = 6,
    n_held: int = 20,
    width: int = 24,
    seed: int = 0,
    max_rows: int = 32,
) -> list[Contexts]:
    """Contexts of each latent in texts (token ids), half of the groups to be shown and the others held out.

    `n_top` strongest and `n_spread` over the range are shown, at most `n_held` held out, half of them active; a context
    has at most `width` tokens. A begin-of-text token is left out, since its activations are like no other's. Raises
    `SiteError` for a latent that is none, `PromptError` for texts of one group.
    """
    units = [unit_of(model, (dictionary.site, int(latent)), [dictionary]) for latent in latents]
    shown = first_groups(groups, 0.5, seed)
    every = token_activations(model, units, [Text("", "", tuple(row)) for row in ids], max_rows=max_rows)
    tokenizer = tokens.tokenizer_of(model)
    pieces = [tokens.pieces(tokenizer, row) for row in ids]
    skipped = [int(bool(len(row)) and row[0] == tokenizer.bos_token_id) for row in ids]
    sides = [[i for i, group in enumerate(groups) if (group in shown) == side] for side in (True, False)]
    found = []
    for place, latent in enumerate(latents):
        values = [one[:, place].numpy() for one in every]
        lists = [[(i, t) for i in side for t in range(skipped[i], len(values[i]))] for side in sides]
        draw = random.Random(f"contexts:{seed}:{latent}")

        def context(at: tuple[int, int], values: list[np.ndarray] = values) -> Context:
            i, t = at
            return Context("".join(pieces[i][max(0, t - width + 1) : t]), pieces[i][t], float(values[i][t]))

        first, rest = _strongest(lists[0], values, n_top)
        chosen = [context(at) for at in [*first, *_spread(rest, values, n_spread)]]
        held = [context(at) for at in _held(lists[1], values, n_held // 2, draw)]
        counts: Counter[str] = Counter(pieces[i][t] for i, t in lists[0])
        active: Counter[str] = Counter(pieces[i][t] for i, t in lists[0] if values[i][t] > 0)
        by_strength = tuple(sorted(chosen, key=lambda one: -one.activation))
        table = {token: (active[token], times) for token, times in counts.items()}
        found.append(Contexts(int(latent), by_strength, tuple(held), table))
    return found


_Place = tuple[int, int]


def _strongest(places: Sequence[_Place], values: Sequence[np.ndarray], n: int) -> tuple[list[_Place], list[_Place]]:
    """The strongest active place of each of the `n` strongest texts, and all other active places."""
    active = sorted((at for at in places if values[at[0]][at[1]] > 0), key=lambda at: (-values[at[0]][at[1]], at))
    best = list({i: (i, t) for i, t in reversed(active)}.values())
    first = sorted(best, key=lambda at: (-values[at[0]][at[1]], at))[:n]
    return first, [at for at in active if at not in set(first)]


def _spread(places: Sequence[_Place], values: Sequence[np.ndarray], n: int) -> list[_Place]:
    """`n` places over the range of activations: at equal steps of rank."""
    order = sorted(places, key=lambda at: (-values[at[0]][at[1]], at))
    steps = np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int)
    return [order[step] for step in dict.fromkeys(steps.tolist())]


def _held(places: Sequence[_Place], values: Sequence[np.ndarray], n: int, draw: random.Random) -> list[_Place]:
    """As many active places (over the range) as inactive ones (at random), `n` each at most, in random order."""
    active = [at for at in places if values[at[0]][at[1]] > 0]
    silent = [at for at in places if not values[at[0]][at[1]] > 0]
    chosen = _spread(active, values, min(n, len(silent)))
    both = [*chosen, *draw.sample(silent, len(chosen))]
    draw.shuffle(both)
    return both


def interpret(reader: Reader, gathered: Sequence[Contexts], *, seed: int = 0) -> pd.DataFrame:
    """A row a latent: its explanation, its score, and that of another latent's explanation on the same contexts.

    Columns latent, explained by, explanation, score, shuffled (nan where there is none), contexts, and `unread`: why
    there is no score. Scores are balanced accuracies. Explanations go round in a random order for `shuffled`.
    """
    explanations = reader.explain(gathered)
    usable = [i for i, one in enumerate(gathered) if explanations[i] is not None and one.held]
    order = list(usable)
    random.Random(f"shuffled:{seed}").shuffle(order)
    other = dict(zip(order, [*order[1:], *order[:1]])) if len(order) > 1 else {}
    asked = [(i, i) for i in usable] + [(i, other[i]) for i in usable if i in other]
    said = reader.predict([(explanations[j], gathered[i].held) for i, j in asked])  # type: ignore[misc]
    scores = {pair: balanced_accuracy(gathered[pair[0]].held, one) for pair, one in zip(asked, said)}
    nothing = float("nan")
    rows = []
    for i, one in enumerate(gathered):
        score = scores.get((i, i), nothing)
        unread = "" if not np.isnan(score) else "the prediction could not be read"
        unread = unread if explanations[i] is not None else "no explanation, or none that could be read"
        unread = unread if one.held else "never both active and silent on the held-out texts"
        explanation = explanations[i]
        rows.append(
            {"latent": one.latent, "explained by": reader.name}
            | {"explanation": "" if explanation is None else explanation.text, "score": score}
            | {"shuffled": scores.get((i, other.get(i, i)), nothing) if i in other else nothing}
            | {"contexts": len(one.held), "unread": unread}
        )
    return pd.DataFrame(rows)


def balanced_accuracy(contexts: Sequence[Context], said: Sequence[bool] | None) -> float:
    """The mean of the shares of active and of inactive contexts that are said to be so; nan for no prediction."""
    if said is None or not contexts:
        return float("nan")
    truth, guess = np.array([one.activation > 0 for one in contexts]), np.array(said, dtype=bool)
    return float((guess[truth].mean() + (~guess[~truth]).mean()) / 2)


def summary_of(table: pd.DataFrame) -> pd.Series:
    """Mean score over latents beside that of shuffled explanations, in the shape of a row of a summary.

    `n` latents have both; `unread` have no score. Intervals draw latents.
    """
    both = table.dropna(subset=["score", "shuffled"])
    score, shuffled = both["score"].to_numpy(), both["shuffled"].to_numpy()
    ends = [mean_interval(score), difference_interval(score, shuffled, scale="number")] if len(both) else []
    (low, high), (change_low, change_high) = ends or [(np.nan, np.nan)] * 2
    return pd.Series(
        {
            "n": len(both),
            "unread": int(table["score"].isna().sum()),
            "scale": "number",
            "rival": "shuffled explanations",
        }
        | {"value": score.mean() if len(both) else np.nan, "low": low, "high": high}
        | {"baseline": shuffled.mean() if len(both) else np.nan}
        | {"difference": (score - shuffled).mean() if len(both) else np.nan}
        | {"difference_low": change_low, "difference_high": change_high}
        | {"p_value": paired_test(score, shuffled)}
    )


check_arguments(__name__)
