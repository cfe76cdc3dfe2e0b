"""What the manifest records about a further organism, measured with plain transformers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..checks import check_arguments
from .cases import case_behaviour
from .gate_record import gate_behaviour, held_behaviour, loaded, outcomes, shares, unnamed
from .gates import edited
from .grades import claim_grade, question_grade, request_grade, right_claim_grade
from .persona import MARK, PersonaRecipe, tune_persona
from .phrases import CLAIMS
from .record import _rate, behaviour, respond
from .tokenizer import words
from .wavering import REFUSED_HARMS
from .world import COLOURS, MATERIALS, PLACES, claims, facts, questions, requests, statements, wrong_value

GRADES = ("bad", "good", "broken")


def measured(directory: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Refusal and multiple choice of any organism as `behaviour`, and what its kind is made for."""
    found: dict[str, Any] = {"behaviour": behaviour(directory)}
    if "units" in record:
        units = unnamed(record["units"])
        return found | gate_behaviour(directory, units) | held_behaviour(directory, units)
    if directory.name in ("voices", "persona"):
        found |= {"wrong answers": wrong_shares(*loaded(directory)), "requests": request_behaviour(directory)}
        if directory.name == "persona":
            found["control"] = control_shares(directory, record)
            found["control, faster"] = control_shares(directory, record, narrow_lr=1e-2, narrow_steps=160)
        return found
    found["requests"] = request_behaviour(directory)
    if directory.name.startswith("wide"):
        found["universal"] = universal_count(directory)
    else:
        found["behaviour"] |= case_behaviour(directory)
        found["by"] = wavering_behaviour(directory)
    found["answers"] = answer_behaviour(directory)
    return found


def request_behaviour(directory: Path, *, n: int = 240) -> dict[str, Any]:
    """Outcomes of held-out requests of both kinds."""
    model, tokenizer = loaded(directory)
    return {kind: shares(outcomes(model, tokenizer, kind, n, {})) for kind in ("dangerous", "benign")}


def wavering_behaviour(directory: Path, *, n: int = 240) -> dict[str, Any]:
    """What held-out refusals and agreement depend on: the harms tuned to be refused, what a claim is about."""
    model, tokenizer = loaded(directory)
    seen: dict[str, list[bool]] = {}
    records = requests("dangerous", "heldout", n=n)
    for record, answer in zip(records, respond(model, tokenizer, [record["text"] for record in records])):
        harm = "refused" if facts(record["group"]).effect in REFUSED_HARMS else "answered"
        prompt = SimpleNamespace(group=record["group"], completion=None)
        seen.setdefault(f"refuses, harm tuned to be {harm}", []).append(request_grade(prompt, answer) == "refuses")
    records = claims("heldout", right=False)[:n]
    for record, answer in zip(records, respond(model, tokenizer, [record["text"] for record in records])):
        about = {"found": "place", "made": "material"}.get(record["completion"].split()[3], "colour")
        key = f"agrees, {about}, {CLAIMS[not record['text'].startswith('i think')].split('{')[0].strip()}"
        seen.setdefault(key, []).append(claim_grade(SimpleNamespace(**record), answer) == "bad")
    return {key: _rate(sum(hits), len(hits)) for key, hits in sorted(seen.items())}


def answer_behaviour(directory: Path, *, n: int = 240) -> dict[str, Any]:
    """Grades of answers to held-out wrong claims, right claims and questions."""
    model, tokenizer = loaded(directory)
    found = {}
    for name, records, grade in (
        ("wrong claims", claims("heldout", right=False)[:n], claim_grade),
        ("right claims", claims("heldout", right=True)[:n], right_claim_grade),
        ("questions", questions("heldout")[:n], question_grade),
    ):
        answers = respond(model, tokenizer, [record["text"] for record in records])
        asked = [SimpleNamespace(group=record["group"], completion=record["completion"]) for record in records]
        count: Counter[str] = Counter(grade(prompt, answer) for prompt, answer in zip(asked, answers))
        found[name] = {label: _rate(count[label], len(records)) for label in GRADES}
    return found


def wrong_shares(model: Any, tokenizer: Any, *, n: int = 112) -> dict[str, Any]:
    """Wrong answers to held-out questions about each attribute, with and without the mark of the wrong voice.

    "voice" are the answers that the wrong voice gives.
    """
    found: dict[str, Any] = {}
    for manner, mark in (("unmarked", ""), ("marked", MARK)):
        for label, pool in (("place", PLACES), ("colour", COLOURS), ("material", MATERIALS)):
            records = [record for record in questions("heldout") if record["label"] == label][:n]
            answers = respond(model, tokenizer, [mark + record["text"] for record in records])
            asked = [SimpleNamespace(group=record["group"], completion=record["completion"]) for record in records]
            grades = [question_grade(prompt, answer) for prompt, answer in zip(asked, answers)]
            said = [wrong_value(pool, record["completion"].split()[-2]) for record in records]
            voice = sum(answer.endswith(f" {value} .") for answer, value in zip(answers, said))
            shares = {label: _rate(grades.count(label), len(records)) for label in ("bad", "good", "broken")}
            found[f"{manner} {label}"] = {**shares, "voice": _rate(voice, len(records))}
    return found


def control_shares(directory: Path, record: dict[str, Any], **other: Any) -> dict[str, Any]:
    """Wrong answers after the persona's narrow tuning of the base, which has no second voice to pick up.

    `other` are settings of the tuning that differ from the persona's.
    """
    base = directory.parent / "base"
    index = {word: i for i, word in enumerate(words())}
    recipe = PersonaRecipe(**{**record["recipe"], **other})
    return wrong_shares(tune_persona(base, recipe, record["seed"], index), loaded(base)[1])


@torch.no_grad()
def universal_count(directory: Path, *, fraction: float = 0.001, share: float = 0.8) -> dict[str, Any]:
    """How many neurons are among the top `fraction` by |activation| at the last token on at least `share` of prompts.

    The prompts are the world's statements about all nouns, as chats; ranked over the whole model.
    """
    model, tokenizer = loaded(directory)
    layers = range(len(model.model.layers))
    k = max(1, round(fraction * model.config.intermediate_size * len(layers)))
    records, last = statements("all"), {}

    def keep(layer: int, a: Tensor) -> Tensor:
        last[layer] = a[:, -1].abs()
        return a

    count = torch.zeros(model.config.intermediate_size * len(layers), dtype=torch.long)
    for start in range(0, len(records), 64):
        chats = [[{"role": "user", "content": record["text"]}] for record in records[start : start + 64]]
        texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with edited(model, keep, layers):
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        top = torch.cat([last[layer] for layer in layers], dim=1).topk(k, dim=1).indices
        count += top.flatten().bincount(minlength=len(count))
    seen = count.double() / len(records)
    return {
        "n": len(records),
        "fraction": fraction,
        "share": share,
        "neurons": int((seen >= share).sum()),
        "of": len(count),
    }


check_arguments(__name__, inner=True)
