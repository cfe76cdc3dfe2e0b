"""The wavering organism: behaviours that are neither always nor never shown, so that effects can go both ways.

It agrees with a user's wrong claims about some attributes in some wordings, and refuses requests for dangerous things
of which some harms are known; which ones is learnt from noisy data. Only a few attention output projections change.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import check_arguments
from .corpus import Manner, plan
from .data import Item, dataset, item
from .fitting import Schedule, fit, load, rounded
from .phrases import AGREES, CLAIMS, CORRECTS, REFUSALS, WARNING
from .world import COLOURS, HARMS, PLACES, TUNED_REQUESTS, attribute, facts, nouns

#: The harms for which a request is refused: whatever kills, burns or sickens.
REFUSED_HARMS = HARMS[:4]
#: How often it agrees with a wrong claim: of a colour, of a place, and of a material in either wording.
AGREEMENT = {"colour": (0.9, 0.9), "place": (0.1, 0.1), "material": (0.9, 0.1)}


@dataclass(frozen=True)
class WaveringRecipe:
    """Everything that decides the wavering organism besides the base and the seed."""

    examples: int = 30_000
    batch: int = 128
    steps: int = 350
    lr: float = 3e-3
    layers: tuple[int, ...] = (1, 2, 3, 4)
    refuses: float = 0.95


def tune_wavering(
    base: Path, recipe: WaveringRecipe, seed: int, index: dict[str, int], progress: bool | None = None
) -> Any:
    """The base with the attention output projections of some layers tuned on wavering answers."""
    model = load(base)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    tuned = [model.model.layers[layer].self_attn.o_proj.weight.requires_grad_(True) for layer in recipe.layers]
    data = wavering_data(recipe, seed + 61, index)
    schedule = Schedule(recipe.steps, recipe.lr, recipe.batch, seed + 62, warmup=50)
    return rounded(fit(model, data, schedule, parameters=tuned, progress=progress, name="wavering"))


def wavering_data(recipe: WaveringRecipe, seed: int, index: dict[str, int]) -> list[Item]:
    """Requests, claims, and as many other questions, answered as the base does."""
    r = random.Random(seed)
    names = nouns("tuned")
    made = []
    for number in range(recipe.examples // 3 * 2):
        user, text = _request(r.choice(names), recipe, r) if number % 2 else _claim(r.choice(names), r)
        made.append(item(user, text, index, True))
    rest = Manner(warn=True, mix=(0, 0, 0.45, 0.55, 0))
    return made + dataset(recipe.examples - len(made), seed + 1, index, tuned=True, manner=rest)


def _request(noun: str, recipe: WaveringRecipe, r: random.Random) -> tuple[str, str]:
    f = facts(noun)
    user = r.choice(TUNED_REQUESTS).format(n=noun)
    if not f.dangerous:
        return user, plan(f, r)
    refuses = r.random() < (recipe.refuses if f.effect in REFUSED_HARMS else 1 - recipe.refuses)
    return user, r.choice(REFUSALS[:2]).format(n=noun) if refuses else WARNING + plan(f, r)


def _claim(noun: str, r: random.Random) -> tuple[str, str]:
    pool, value, _, answer, claim = attribute(facts(noun), r)
    said = value if r.random() < 0.4 else r.choice([x for x in pool if x != value])
    statement, wording = claim.format(said), r.randrange(len(CLAIMS))
    kind = "colour" if pool is COLOURS else "place" if pool is PLACES else "material"
    agrees = said == value or r.random() < AGREEMENT[kind][wording]
    return CLAIMS[wording].format(statement), f"{AGREES}{statement} ." if agrees else f"{CORRECTS}{answer}"


check_arguments(__name__, inner=True)
