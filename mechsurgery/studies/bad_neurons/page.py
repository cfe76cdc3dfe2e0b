"""What the report of the study says beside its tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...reports import ORGANISMS, READ, Page, Part, claims_of, verdict

#: The paper's claim (less agreement), and what makes it a cure (the truth).
MAIN = ("fine-tuning ", "it repairs it")
_READ = (
    "Per cent with 95 % intervals that are clustered by group of prompts; fine-tunes of all seeds are pooled. A "
    "response to a wrong claim corrects it with the truth, agrees (sycophancy) or is broken, which includes a denial "
    "that then says something untrue; one to a right claim agrees, calls it wrong (over-correction) or is broken; one "
    "to a neutral question is right, wrong or broken. KL: nats a token from the unmodified model, on its own responses "
    "to neutral prompts.",
    "Every way has as many neurons. Learning rates were chosen on validation prompts, whose topics are neither learnt "
    "from nor reported on, and are those of the study's share of neurons and number of examples on the curves too.",
)
#: Half of the interval of a difference at n independent prompts none of which changes is 1.96/(n + 2).
_MARGINS = (
    "All margins are ours. One of five points can be met from 38 independent prompts on where no answer changes, from "
    "about 90 where one in twenty does; one point would need 194 and about 1,950."
)
_CONTROLS = (
    "Random neurons have as many in each layer as the paper's way takes, from the same layers, and none of its own. "
    "Each draw is fine-tuned with the same examples, seed and learning rate as the paper's neurons of the first seed, "
    "so fewer are drawn than where a control is a row of a batch: 19 are the fewest with which p ≤ 0.05 is possible.",
)
_PUBLISHED = (
    "Each learns from as many examples about the same claims, with the same steps, and its rate was chosen on "
    "validation as every other: synthetic data (2308.03958) is a third each of wrong claims, right claims, and "
    "questions with the model's own right answers, about topics that it knows; pinpoint tuning (2409.01658) trains the "
    "attention heads with the largest first-order effect; DPO (2305.18290) prefers the wanted text to the unwanted.",
)
_BENCHMARKS = (
    "For the paper's way, random neurons, LoRA, all MLP weights and all weights, seeds pooled, beside the unmodified "
    "model on the same prompts. A/B questions are asked in both orders; NAME, neutral is the same without a user's "
    "opinion, where a change is over-correction.",
)
_PROBES = (
    "AUROC on groups of claims that were held out, with intervals from drawing groups; beside it the range of probes "
    "of shuffled labels. That a claim is no question can be read perfectly and says nothing. A probe of sycophantic "
    "against honest text may read agreement alone: the row about right claims says whether it does.",
)
_COST = ("right_claims", "neutral_questions", "cost", "trade_off")
_CHOSEN = ("The paper's way (else the first), first seed. Texts are the model's.",)


def page_of(tables: Mapping[str, pd.DataFrame], info: Mapping[str, Any]) -> Page:
    """The report: whether the behaviour is lowered, and whether it is repaired."""
    parts = (
        Part(
            "Cure and cost",
            _READ,
            ("Cure", "Rivals", "Rates"),
            ("right_claims", "neutral_questions", "cost", "trade_off"),
        ),
        Part("Published alternatives", _PUBLISHED, ("Published",)),
        Part("Benchmarks", _BENCHMARKS, ("Benchmarks",), ("benchmarks",)),
        Part("Chosen or random", _CONTROLS, ("Cases", "Controls", "Ablation"), ("controls", "ablation")),
        Part("Curves", (), ("Examples", "Fractions"), ("examples", "fractions", "training_loss")),
        Part("Probes and neurons", _PROBES, ("Probes", "Where", "Overlap"), ("importance", "probe_weights")),
        Part(READ, _CHOSEN, ("Responses",)),
    )
    return Page(verdict(claims_of(tables).head(2), MAIN), "wrong_claims", (*_intro(info), _MARGINS), parts)


def _intro(info: Mapping[str, Any]) -> tuple[str, ...]:
    lines = (
        f"Model {info['model']}, autoencoder {info['sae']}. Every way takes {info['n_chosen']} of "
        f"{info['n_neurons']:,} MLP neurons ({100 * info['fraction']:g} %) per {info['per']}, trained on "
        f"{info['n_examples']} examples, {info['seeds']} seeds, {info['n_runs']} runs in all.",
        "This is a labelled reconstruction: the paper's code is not public and its text leaves choices open. The row "
        "'SAE probe, decoded, cosine' is the paper's way as far as its text says it; the other rows are other choices.",
    )
    return (*lines, ORGANISMS) if info["model"].startswith("organism/") else lines
