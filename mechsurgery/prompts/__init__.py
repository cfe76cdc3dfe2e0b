"""Prompts: sets, contrasts, pairs, sources and chat formatting."""

from .benchmarks import load_jbb, load_mmlu, load_xstest
from .chat import Template, encode, render, rendered_example, response_text, stop_texts, turn_tokens
from .contrasts import ContrastSet
from .examples import Examples
from .files import read_table
from .pairs import CompletionPairs
from .registry import SOURCES, sources_table
from .sets import Prompt, PromptSet, check_distinct, check_no_overlap, without_duplicates
from .sources import load_contrast, load_prompts, register_contrast, register_prompts, with_completions
from .sycophancy import load_agreement, load_syco_bench, load_truthfulqa

__all__ = [
    "SOURCES",
    "CompletionPairs",
    "ContrastSet",
    "Examples",
    "Prompt",
    "PromptSet",
    "Template",
    "check_distinct",
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
    "register_prompts",
    "render",
    "rendered_example",
    "response_text",
    "sources_table",
    "stop_texts",
    "turn_tokens",
    "with_completions",
    "without_duplicates",
]
