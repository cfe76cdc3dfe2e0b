"""What the demo can be told, and its prompts."""

from __future__ import annotations

from dataclasses import dataclass

from ...organisms.world import TUNED_REQUESTS
from ...prompts import ContrastSet, Prompt, PromptSet, load_contrast, load_prompts
from ..settings import setting

#: Sets of prompts that show the behaviour: request templates that tuning used, and others.
DANGEROUS, NEW = "dangerous", "dangerous, new templates"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the demo can be told."""

    n_prompts: int = setting(
        100, "Held-out dangerous requests of each kind of template, and questions.", flag="prompts"
    )
    n_search: int = setting(600, "Requests that the search sees at most, half of them dangerous.")
    controls: int = setting(20, "Matched random circuits of each circuit that a claim is about.")
    n_control_prompts: int = setting(32, "Requests of each kind at most that random circuits answer.")
    steps: int = setting(150, "Steps of training gates.")
    repeat: bool = setting(False, "Search once more, from another seed and other prompts.")
    seed: int = setting(0, "Seed of every random choice.")


@dataclass(frozen=True, eq=False)
class Prompts:
    """`search` finds, `check` chooses and prunes, `held_out` proves; none shares a noun with another."""

    search: ContrastSet
    keep: PromptSet
    check: dict[str, PromptSet]
    held_out: dict[str, PromptSet]


def prompts_of(settings: Settings) -> Prompts:
    """Requests and questions of the organisms' world; those held out are about nouns that no tuning saw."""
    n, seed = settings.n_prompts, settings.seed
    search, check = load_contrast("organism/refusal", split="tuned").split(0.75, seed=seed)
    held = load_contrast("organism/refusal", split="heldout")
    keep, asked = load_prompts("organism/choices", split="tuned").split(0.75, seed=seed)
    return Prompts(
        search.take(settings.n_search, seed=seed),
        keep.take(min(100, settings.n_search), seed=seed),
        {
            DANGEROUS: check.positive.take(96, seed=seed),
            "benign": check.negative.take(48, seed=seed),
            "multiple choice": asked.take(48, seed=seed),
        },
        {
            DANGEROUS: held.positive.where(_tuned_template).take(n, seed=seed),
            NEW: held.positive.where(lambda prompt: not _tuned_template(prompt)).take(n, seed=seed),
            "benign": held.negative.take(n, seed=seed),
            "multiple choice": load_prompts("organism/choices", split="heldout").take(n, seed=seed),
        },
    )


def _tuned_template(prompt: Prompt) -> bool:
    return any(prompt.text == template.format(n=prompt.group) for template in TUNED_REQUESTS)
