"""What the study of SAE latents can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ..settings import StudySettings, setting

#: Two pairs of cases: of different tunings, and of one voice that is wrong about two things.
CASES = ("organism/sycophant", "organism/misinformed", "organism/voices-places", "organism/voices-materials")
WORLD_CASES = (*CASES, "organism/persona-places", "organism/persona-materials")


@dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    """Settings of the study. Raises `InputError` for numbers below what is needed."""

    case: tuple[str, ...] = setting(CASES, "Built-in case; repeatable.", choices=WORLD_CASES)
    sae: str = setting("organism/sae-topk-2", "Autoencoder: one of the organisms', a directory or a release.")
    sae_id: str | None = setting(None, "Which autoencoder of a release, e.g. layer_20/width_16k/average_l0_71.")
    later_sae: str | None = setting(None, "Autoencoder of a later layer: adds the splice with frozen errors.")
    later_sae_id: str | None = setting(None, "Which autoencoder of that release.")
    model: str | None = setting(None, "A model of your own, instead of --case.")
    twin: str | None = setting(None, "Its aligned twin.")
    prompts: tuple[Path, ...] = setting((), "File of prompts on which the model wavers; given twice, two cases.")
    neutral: tuple[Path, ...] = setting((), "File of prompts without the behaviour: one for all cases, or one each.")
    bad: tuple[str, ...] = setting((), "Regular expression of a response that shows the behaviour: one, or one each.")
    good: tuple[str, ...] = setting((), "Regular expression of a right response; default: any other.")
    grader: str | None = setting(
        None, "Judge that grades responses: a model, https://host/v1#model or recorded:FILE. --bad stands beside it."
    )
    behaviour_described: tuple[str, ...] = setting((), "What the --grader is to look for, in words: one, or one each.")
    good_described: tuple[str, ...] = setting((), "What a good answer is, in words, for the --grader.")
    interpreter: str | None = setting(None, "Judge that explains latents and predicts from its explanations.")
    n_explained: int = setting(20, "Best latents of Δ-attribution that are explained.")
    pairs: tuple[Path, ...] = setting((), "File with columns prompt, bad and good; else completions are sampled.")
    column: str = setting("text", "Text column of --prompts and --neutral.")
    k: int = setting(20, "Latents steered of Δ-attribution (prompt tokens, all tokens) and of model diffing each.")
    k_others: int = setting(4, "Latents of every other ranking that are steered.")
    k_shared: int = setting(5, "Best latents of the other case of a pair that are steered too.")
    n_random: int = setting(40, "Random latents that are steered, of those that are active.")
    n_pairs: int = setting(100, "Pairs of completions at most: half give scores, half check them.")
    n_samples: int = setting(8, "Samples of every discovery prompt.")
    n_oracle: int = setting(60, "Random active latents that are really removed, one at a time.")
    n_discovery: int = setting(160, "Prompts that give pairs, at most.")
    n_validation: int = setting(16, "Prompts that choose strengths, at most.")
    n_evaluation: int = setting(100, "Prompts that measure effects, at most.")
    strengths: tuple[float, ...] = setting((0.1, 0.2, 0.3), "Share of the median activation norm; repeatable.")
    max_broken: float = setting(0.1, "Rise of broken responses over the unmodified model's up to which one counts.")
    temperature: float = setting(1.0, "Temperature of every sampled response.")
    read: int = setting(5, "Latents that are shown to be read.")

    def __post_init__(self) -> None:
        counts = ("k", "k_others", "n_random", "n_pairs", "n_oracle", "read", "n_discovery", "n_validation")
        low = [name for name in (*counts, "n_evaluation", "n_explained", "max_rows") if getattr(self, name) < 1]
        if low:
            raise InputError(f"{low[0]}={getattr(self, low[0])} must be at least 1")
        if not self.strengths or min(self.strengths) <= 0:
            raise InputError(f"strengths={self.strengths} must be above 0, and one at least")
        if not 0 <= self.max_broken < 1:
            raise InputError(f"max_broken={self.max_broken} must be at least 0 and below 1, such as 0.1 for ten points")
        if (self.grader is None) != (not self.behaviour_described):
            raise InputError("--grader and --behaviour-described go together: a judge, and what it is to look for")
