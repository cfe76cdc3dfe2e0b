"""The study as a report page."""

from __future__ import annotations

from typing import Any

from ...plots import Section
from ..base import FAILED, UNDECIDED, UNMEASURED, settings_table
from .steering import FDR, MAX_INCOHERENT


def sections(study: Any) -> list[Section]:
    """The report of a `LatentStudy`."""
    made = study.tables
    named = {name.split(":")[0]: (name, table) for name, table in made.items()}
    _, verdicts = named["Claims"]
    missed = verdicts[verdicts["verdict"].isin([FAILED, UNDECIDED, UNMEASURED])]

    def some(*names: str) -> dict[str, Any]:
        return dict(named[name] for name in names if name in named)

    heat = {
        f"{r.case.name}, {v.name}: its strongest contexts": v.heatmaps
        for r in study.cases
        for v in r.views
        if v.heatmaps.rows
    }
    return [
        Section("What was asked", _intro(study.info), some("Pairs", "Fit")),
        Section("The post's claims beside what was measured", (), {"": verdicts}),
        Section(
            "What did not hold",
            ("Claims that failed, stay undecided at this n, or could not be measured here.",)
            if len(missed)
            else ("Every claim that was measured held.",),
            {"": missed} if len(missed) else {},
        ),
        Section("Proof by steering", _STEERING, some("Rankings", "Best latents")),
        Section("Against the exact effect", _ORACLE, some("Oracle")),
        Section("Figures", (), {}, {name.replace("_", " "): figure for name, figure in study.figures.items()}),
        Section("Two cases", (), some("Convergence")) if "Convergence" in named else Section("Two cases", _ONE),
        Section("Reading the best latents", (), some("Reading"), {}, heat),
        Section("Responses to read", (), some("Responses")),
        Section("How it was made", (), {"": settings_table(study.info, _SETTINGS)}),
    ]


_SETTINGS = (
    "models",
    "fingerprints",
    "sae",
    "sae_digest",
    "hook_name",
    "n_latents",
    "k",
    "k_others",
    "n_random",
    "n_pairs",
    "n_samples",
    "n_oracle",
    "fractions",
    "temperature",
    "max_new_tokens",
    "seed",
    "template",
    "seconds",
    "made",
    "versions",
)
_ONE = ("Give two cases to see which latents explain both.",)
_STEERING = (
    "Each latent's decoder direction is added at every token, at fractions of the median activation norm of the "
    "behaving model. Validation prompts choose its strength: the largest effect with at most "
    f"{100 * MAX_INCOHERENT:.0f} % incoherent responses; evaluation prompts of other groups measure the effect there.",
    "Outside the band (*) means: a larger effect than every random latent, and different from the unmodified model "
    f"(McNemar's exact test, Benjamini–Hochberg over all steered latents at {FDR}). q_random compares with the random "
    "latents alone: (1 + number as large) / (1 + number), Benjamini–Hochberg; with few random latents it cannot be "
    "small.",
)
_ORACLE = (
    "Exact: the loss of bad minus good completions when a latent's direction is really moved to its mean at all prompt "
    "tokens, one latent at a time; half of the latents are the best by Δ-attribution, half random ones.",
)


def _intro(info: dict[str, Any]) -> tuple[str, ...]:
    lines = [
        f"Cases: {', '.join(info['cases'])}. Autoencoder {info['sae']} at {info['hook_name']} with "
        f"{info['n_latents']:,} latents. Pairs are completions of the same model to the same prompts, graded by rule; "
        "prompts that give pairs, that choose strengths and that measure effects share no group.",
        "A response that is no proper answer is incoherent: neither bad nor good.",
    ]
    if any(str(name).startswith("organism/") for name in info["models"]):
        lines.append(
            "These are model organisms of a few million parameters: nothing here is a finding about real models."
        )
    return tuple(lines)
