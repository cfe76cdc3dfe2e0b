"""What "Targeted Neuron Modulation via Contrastive Pair Search" (2605.12290) reports, to print beside our numbers.

Refusals are counts of 100 JBB-Behaviors prompts before and after ablation (Table 1); at full strength on 99
prompts, refusal in percent and output quality of CNA and of CAA (Table 2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Anchor:
    """The paper's numbers for one instruct model: refusals of 100, then (refusal %, quality) at full strength."""

    refusals_before: int
    refusals_after: int
    cna: tuple[float, float]
    caa: tuple[float, float]


ANCHORS: dict[str, Anchor] = {
    "Llama-3.2-1B": Anchor(90, 34, (20.2, 0.975), (0.0, 0.554)),
    "Llama-3.2-3B": Anchor(84, 47, (26.3, 0.977), (0.0, 0.431)),
    "Llama-3.1-8B": Anchor(90, 34, (5.1, 0.969), (38.4, 0.493)),
    "Llama-3.1-70B": Anchor(86, 18, (12.1, 0.981), (0.0, 0.569)),
    "Qwen2.5-1.5B": Anchor(93, 12, (26.3, 0.982), (100.0, 0.888)),
    "Qwen2.5-3B": Anchor(90, 58, (34.3, 0.984), (0.0, 0.844)),
    "Qwen2.5-7B": Anchor(87, 2, (13.1, 0.980), (5.1, 0.414)),
    "Qwen2.5-72B": Anchor(78, 8, (5.1, 0.983), (98.0, 0.406)),
}


def anchor(model_name: str) -> tuple[str, Anchor] | None:
    """The paper's numbers for a model, by its hub id or directory name, or None where it is not one of theirs.

    >>> anchor("meta-llama/Llama-3.2-1B-Instruct")[0], anchor("organism/instruct")
    ('Llama-3.2-1B', None)
    """
    own = re.sub(r"[^a-z0-9.]+", "-", model_name.lower()).strip("-")
    for name, numbers in ANCHORS.items():
        if re.search(rf"(^|-){re.escape(name.lower())}-(instruct|it|chat)\b", own):
            return name, numbers
    return None
