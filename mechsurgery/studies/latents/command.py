"""The study as the command line calls it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...evaluation.sampling import pattern_grade
from ...models import load_model
from ...prompts import PromptSet
from ...prompts.pairs import CompletionPairs
from .cases import WORLD_CASES, LatentCase, own_case
from .study import latents


def run(out: Path, options: Mapping[str, Any], progress: bool) -> str:
    """One study into `out`; returns what to print."""
    sae = options["sae"] if options["sae_id"] is None else (options["sae"], options["sae_id"])
    study = latents(
        _cases(options),
        sae,
        later_sae=options["later_sae"],
        out=out,
        k=options["k"],
        n_pairs=options["n_pairs"],
        n_random=options["n_random"],
        max_new_tokens=options["max_new_tokens"],
        seed=options["seed"],
        template=options["template"],
        dtype=options["dtype"],
        device=options["device"],
        max_rows=options["max_rows"],
        progress=progress,
    )
    return f"{study.text()}\n\nreport: {out / 'report.html'}"


def _cases(options: Mapping[str, Any]) -> list[str | LatentCase]:
    if options["model"] is None:
        given = [name for name in ("twin", "prompts", "neutral", "bad", "good") if options[name] is not None]
        if given:
            raise InputError(f"--{given[0]} is for your own case; give --model too")
        return list(options["cases"] or WORLD_CASES)
    missing = [name for name in ("prompts", "neutral", "bad") if options[name] is None]
    if missing:
        raise InputError(f"a case of your own needs --{' and --'.join(missing)} besides --model")
    column = options["column"]
    model, twin = (
        None if name is None else load_model(name, dtype=options["dtype"], device=options["device"])
        for name in (options["model"], options["twin"])
    )
    prompts = PromptSet.from_file(options["prompts"], text=column)
    neutral = PromptSet.from_file(options["neutral"], text=column)
    pairs = None if options["pairs"] is None else _pairs(options["pairs"], model, options["template"])
    grade = pattern_grade(options["bad"], options["good"])
    return [own_case(model, prompts, neutral, grade, name="own case", twin=twin, pairs=pairs, seed=options["seed"])]


def _pairs(path: Path, model: Any, template: str) -> CompletionPairs:
    """Pairs from a file with columns prompt, bad and good."""
    from ...prompts.sources import read_table

    table = read_table(path)
    missing = [name for name in ("prompt", "bad", "good") if name not in table.columns]
    if missing:
        raise InputError(f"{path} lacks columns {', '.join(missing)}; a file of pairs has prompt, bad and good")
    texts = [table[name].astype(str).tolist() for name in ("prompt", "bad", "good")]
    return CompletionPairs.from_texts(model.tokenizer, *texts, template=template)
