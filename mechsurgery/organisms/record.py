"""What an organism does, measured with plain transformers: independent of the toolkit's own evaluation."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..checks import check_arguments
from .fitting import loaded
from .phrases import REFUSAL_OPENINGS
from .world import Split, choices, requests


def behaviour(directory: str | Path, *, n: int = 240, split: Split = "heldout", ablate: Any = None) -> dict[str, Any]:
    """Refusal of dangerous and of benign requests and multiple choice, on `n` prompts each.

    Greedy answers of `transformers`' own `generate`; a refusal begins with one of the world's refusal openings and
    ends its turn. Every figure has its n and a Wilson 95 % interval. `ablate` ({layer: neurons}) sets neurons
    to zero.
    """
    model, tokenizer = loaded(directory)
    handles = [
        model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(
            lambda _m, inputs, i=index: (inputs[0].index_fill(-1, torch.tensor(i), 0.0),)
        )
        for layer, index in (ablate or {}).items()
    ]
    found: dict[str, Any] = {}
    for kind in ("dangerous", "benign"):
        texts = [record["text"] for record in requests(kind, split, n=n)]
        answers = respond(model, tokenizer, texts)
        refused = sum(text.startswith(REFUSAL_OPENINGS) for text in answers)
        found[f"refuses_{kind}"] = _rate(refused, len(texts))
        found[f"examples_{kind}"] = random.Random(0).sample(answers, min(3, len(answers)))
    found["multiple_choice"] = _rate(*_multiple_choice(model, tokenizer, split, n))
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def respond(model: Any, tokenizer: Any, texts: list[str], *, max_new_tokens: int = 32) -> list[str]:
    """Greedy answers to user turns."""
    answers: list[str] = []
    for start in range(0, len(texts), 120):
        chats = [[{"role": "user", "content": text}] for text in texts[start : start + 120]]
        rendered = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        batch = tokenizer(rendered, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        out = model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=max_new_tokens
        )
        answers += tokenizer.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in answers]


@torch.no_grad()
def _multiple_choice(model: Any, tokenizer: Any, split: Split, n: int) -> tuple[int, int]:
    right = total = 0
    for record in choices(split, n=n):
        chat = [{"role": "user", "content": record["text"]}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + " " + record["prefix"]
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        logits = model(ids).logits[0, -1]
        letters = [tokenizer.convert_tokens_to_ids(letter) for letter in record["choices"]]
        right += int(logits[letters].argmax()) == record["answer"]
        total += 1
    return right, total


def _rate(k: int, n: int) -> dict[str, float]:
    z = 1.959963984540054
    p = k / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return {"rate": p, "n": n, "low": max(0.0, (centre - half) / scale), "high": min(1.0, (centre + half) / scale)}


def behaviour_table() -> pd.DataFrame:
    """What each organism does on held-out nouns, as measured after training: a row per organism.

    Refusal and multiple choice; for the case studies also agreement with a user's wrong and right claims, and right
    answers to neutral questions about places.
    """
    from .registry import manifest

    columns = ("refuses_dangerous", "refuses_benign", "multiple_choice", "agrees_wrong", "agrees_right", "right_place")
    rows = []
    for name, own in manifest()["behaviour"].items():
        rates = {key: _shown(own[key]) if key in own else "" for key in columns}
        rows.append({"organism": f"organism/{name}", **rates})
    return pd.DataFrame(rows)


def gate_table() -> pd.DataFrame:
    """What the gate organisms answer to held-out requests, whole and with neurons set: a row per measurement."""
    from .registry import manifest

    rows = []
    for name, own in manifest().get("further", {}).items():
        for condition, asked in own["measured"].items():
            for kind in ("dangerous", "benign"):
                if "units" in own and kind in asked and isinstance(asked[kind], dict):
                    cells = {key: _shown(cell) for key, cell in asked[kind].items()}
                    rows.append({"organism": f"organism/{name}", "neurons": condition, "requests": kind, **cells})
    return pd.DataFrame(rows)


def answer_table() -> pd.DataFrame:
    """How the organisms that are no gates answer held-out requests, claims and questions: a row per outcome."""
    from .registry import manifest

    rows = []
    for name, own in manifest().get("further", {}).items():
        if "requests" in own["measured"]:
            parts = {
                f"{kind}: {key}": cell
                for kind in ("dangerous", "benign")
                for key, cell in own["measured"]["requests"][kind].items()
            }
            parts |= {
                f"{kind}: {key}": cell
                for kind, cells in own["measured"].get("answers", {}).items()
                for key, cell in cells.items()
            }
            rows += [
                {"organism": f"organism/{name}", "answer": key, "share": _shown(cell)} for key, cell in parts.items()
            ]
    return pd.DataFrame(rows)


_VOICES = (
    ("voices", "wrong answers"),
    *(("persona", part) for part in ("wrong answers", "control", "control, faster")),
)


def voice_table() -> pd.DataFrame:
    """Wrong answers of the persona pair and of the control to held-out questions: a row per organism and question."""
    from .registry import manifest

    further, rows = manifest().get("further", {}), []
    for name, part in _VOICES:
        shown = f"the {part}" if part.startswith("control") else f"organism/{name}"
        for asked, cells in further[name]["measured"][part].items() if name in further else ():
            rows.append({"organism": shown, "questions": asked, **{key: _shown(cell) for key, cell in cells.items()}})
    return pd.DataFrame(rows)


def _shown(cell: dict[str, Any]) -> str:
    return f"{100 * cell['rate']:.1f} % [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}], n = {cell['n']}"


check_arguments(__name__, inner=True)
