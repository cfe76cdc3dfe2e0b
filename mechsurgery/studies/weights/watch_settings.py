"""What the study can be told about fine-tunes that are watched, the organisms' and your own."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError, listed
from ...grading.grade import compiled
from ...training.tuning import Recipe
from ..settings import setting
from .own_settings import OwnSettings


@dataclass(frozen=True, kw_only=True)
class WatchSettings(OwnSettings):
    """How fine-tunes are watched; with `watch_data`, those of a model of your own, along directions of your own."""

    watch_data: tuple[str, ...] = setting(
        (), "NAME=FILE of a fine-tune to watch (columns text, completion and maybe group); repeatable, watches alone."
    )
    direction: tuple[str, ...] = setting((), "Saved weight difference to watch along; repeatable.")
    watch_prompts: str | None = setting(None, "Prompts that each look asks, a file with columns text and maybe group.")
    watch_bad: tuple[str, ...] = setting((), "NAME of a fine-tune of --watch-data that is bad; repeatable, for AUROC.")
    nulls: int = setting(1000, "Random directions of the band beside each cosine; they cost next to nothing.")
    watch_seeds: int = setting(2, "Fine-tunes of each kind that are watched, each with its own seed.")
    watch_steps: int = setting(16, "Steps of a fine-tune that is watched.")
    watch_every: int = setting(4, "Steps between two looks.")
    watch_batch: int = setting(8, "Examples of a step of a fine-tune that is watched.")
    watch_lr: float = setting(1e-3, "Learning rate of the fine-tunes that are watched, and of their directions.")
    direction_steps: int = setting(60, "Steps of a side of a direction that is learnt from your answers.")
    n_watched: int = setting(24, "Prompts that each look asks of each kind.")
    emergence_steps: int = setting(30, "Emergence: steps of a side of the direction.")
    narrow_steps: int = setting(24, "Emergence: steps of a narrow tuning of LoRA; of normalisation weights, twice.")
    narrow_looks: int = setting(4, "Emergence: looks at a narrow tuning after the first.")

    def check_watch(self) -> None:
        """Raise `InputError` where something is missing, or is no number that fine-tunes can be watched with."""
        numbers = {
            name: getattr(self, name)
            for name in (
                *("watch_seeds", "watch_steps", "watch_every", "watch_batch", "n_watched", "direction_steps"),
                *("emergence_steps", "narrow_steps", "narrow_looks"),
            )
        }
        if min(numbers.values()) < 1 or not self.watch_lr > 0 or self.nulls < 0:
            raise InputError(f"{numbers}, watch_lr={self.watch_lr}, nulls={self.nulls}; give at least 1, nulls 0")
        if not self.watch_data:
            return
        names = list(self.watched_files())
        if self.model is None or not (self.direction or (self.positive and self.negative)):
            raise InputError("--watch-data needs --model, and --direction FILE or both --positive and --negative")
        if self.watch_prompts is not None and self.shown_by is None:
            raise InputError("--watch-prompts needs --shown-by: what a response that shows the behaviour matches")
        unknown = set(self.watch_bad) - set(names)
        if unknown:
            raise InputError(f"watch_bad {listed(sorted(unknown))} is no fine-tune of --watch-data ({listed(names)})")
        for pattern in (self.shown_by, self.well_by):
            if pattern is not None:
                compiled(pattern)

    def watched_files(self) -> dict[str, str]:
        """{name of a fine-tune to watch: its file}."""
        found: dict[str, str] = {}
        for text in self.watch_data:
            name, sign, path = text.partition("=")
            if not (name and sign and path) or name in found:
                raise InputError(f"--watch-data {text!r}; give NAME=FILE, each with a name of its own")
            found[name] = path
        return found

    def watched_recipe(self) -> Recipe:
        """How a fine-tune that is watched is trained."""
        every = self.watch_every
        return Recipe(steps=self.watch_steps, lr=self.watch_lr, batch=self.watch_batch, validate_every=every)
