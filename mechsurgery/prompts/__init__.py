"""Prompts: sets, contrasts, sources and chat formatting."""

from .benchmarks import load_jbb, load_mmlu, load_xstest
from .chat import encode, render, stop_texts
from .examples import Examples
from .sets import ContrastSet, Prompt, PromptSet, check_no_overlap
from .sources import load_contrast, load_prompts, read_table, register_contrast
from .sycophancy import load_agreement, load_syco_bench, load_truthfulqa

__all__ = [
    "ContrastSet",
    "Examples",
    "Prompt",
    "PromptSet",
    "check_no_overlap",
    "encode",
    "load_agreement",
    "load_contrast",
    "load_jbb",
    "load_mmlu",
    "load_prompts",
    "load_syco_bench",
    "load_truthfulqa",
    "load_xstest",
    "read_table",
    "register_contrast",
    "render",
    "stop_texts",
]
