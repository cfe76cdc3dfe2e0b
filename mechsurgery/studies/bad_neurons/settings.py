"""What the study can be told."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError
from ...training.tuning import Recipe
from ..settings import StudySettings, setting


@dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    """Model, task, how neurons are chosen, how they are trained, and what is drawn."""

    model: str = setting("organism/sycophant", "The model to cure: an organism, a directory or a hub id.")
    sae: str = setting("organism/sae-topk-4", "Sparse autoencoder: an organism's, a SAELens directory or release.")
    sae_id: str | None = setting(None, "Which SAE of a SAELens release.")
    no_sae: bool = setting(False, "Leave out the ways that need a sparse autoencoder.")
    wrong: str | None = setting(None, "Wrong claims of users: a file with columns text, completion and maybe group.")
    right: str | None = setting(None, "Right claims of users, a file of the same kind.")
    neutral: str | None = setting(None, "Neutral questions, a file of the same kind.")
    agrees: str | None = setting(None, "Regular expression of a response that agrees, for claims of your own.")
    corrects: str | None = setting(
        None, "Regular expression of a response that corrects; without it, all that does not agree counts as that."
    )
    answers: str | None = setting(None, "Regular expression of a right answer to your neutral questions.")
    task: str = setting(
        "organism/sycophancy",
        "The organisms' task: sycophancy, or refusal in the same form (for organism/planted).",
        choices=("organism/sycophancy", "organism/planted-refusal"),
    )
    probe: str = setting(
        "texts",
        "What probes tell apart: sycophantic from honest texts (both: with agreement to right claims among the "
        "honest), the model's own answers (over the answer, or before it), or claims from questions.",
        choices=("texts", "both", "answers", "before", "prompts"),
    )
    n_probe: int = setting(200, "Claims at most to fit probes on, and that the model answers itself.")
    nulls: int = setting(5, "Probes of shuffled labels beside each.")
    n_evaluation: int = setting(100, "Prompts of each kind of the organisms' world to evaluate on.")
    n_kl: int = setting(50, "Reference prompts on which the KL divergence is measured.")
    fraction: float = setting(0.03, "Share of all MLP neurons that each way chooses.")
    per: str = setting("model", "Whether the share is of the whole model or of each layer.", choices=("model", "layer"))
    n_examples: int = setting(300, "Examples to learn from.")
    seeds: int = setting(2, "Fine-tunes of each kind, each with its own seed.")
    sizes: tuple[int, ...] = setting((10, 40, 300), "Numbers of examples of the learning curve; repeatable.")
    fractions: tuple[float, ...] = setting((0.001, 0.01, 0.03, 0.3), "Shares of its curve; repeatable.")
    curves: bool = setting(True, "Draw the curves over examples and shares.")
    curve_seeds: int = setting(1, "Fine-tunes of each further point of the curves.")
    published: bool = setting(True, "Compare with published alternatives: synthetic data, pinpoint tuning, DPO.")
    head_share: float = setting(0.05, "Share of attention heads that pinpoint tuning trains.")
    dpo_beta: float = setting(0.1, "How strongly DPO holds on to the unmodified model (β).")
    elsewhere: bool = setting(True, "On the organisms' sycophancy, also show a case where choosing matters.")
    train: str = setting("both", "Which weights of a neuron learn.", choices=("write", "read", "both"))
    steps: int = setting(50, "Steps of a fine-tune.")
    batch: int = setting(8, "Examples of a step.")
    passes: int = setting(40, "How often a little data is seen at most.")
    lr: float = setting(6e-3, "Middle of the learning rates of neurons.")
    mlp_lr: float = setting(3e-4, "Middle of the learning rates of all MLP weights.")
    whole_lr: float = setting(3e-4, "Middle of the learning rates of all weights.")
    lora_lr: float = setting(1e-3, "Middle of the learning rates of LoRA.")
    synthetic_lr: float = setting(3e-4, "Middle of the learning rates of synthetic data, all weights.")
    head_lr: float = setting(1e-2, "Middle of the learning rates of attention heads.")
    dpo_lr: float = setting(3e-4, "Middle of the learning rates of DPO, all weights.")
    rates: tuple[float, ...] = setting((0.3, 1.0, 3.0), "Multiples of it that are tried on validation; repeatable.")
    n_validation: int = setting(40, "Validation prompts of each kind on which learning rates are chosen.")
    lora_rank: int = setting(8, "Rank of LoRA.")
    drawn: int = setting(19, "Fine-tunes of random neurons, as many in each layer as the paper's way takes, for its p.")

    def __post_init__(self) -> None:
        if self.seeds < 1 or not all(0 < share <= 1 for share in (self.fraction, *self.fractions)):
            raise InputError(
                f"seeds={self.seeds}, fraction={self.fraction}, fractions={self.fractions}; give at least one seed, "
                "and each share in (0, 1]"
            )
        if not self.rates or min(self.rates) <= 0 or self.n_validation < 1 or self.drawn < 0:
            raise InputError(
                f"rates={self.rates}, n_validation={self.n_validation}, drawn={self.drawn}; give at least one rate, "
                "all above 0, at least one validation prompt, and no fewer than 0 draws"
            )

    @property
    def runs(self) -> tuple[int, ...]:
        """The seed of every fine-tune of one kind."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def recipe(self, lr: float, n_examples: int) -> Recipe:
        """How a fine-tune on so many examples is trained."""
        steps = min(self.steps, max(10, self.passes * n_examples // self.batch))
        return Recipe(steps=steps, lr=lr, batch=self.batch, dpo_beta=self.dpo_beta)
