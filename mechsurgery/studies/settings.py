"""Settings of studies: each option is written once, as a field with its help, and the command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from ..adapters.endpoints import judge_from
from ..errors import InputError
from ..evaluation.benchmarks import Benchmark, load_benchmarks, that_fit
from ..grading.grade import Grade
from ..grading.judges import Judge
from ..grading.strongreject import strongreject
from ..models.protocol import Model
from ..prompts.chat import Template
from ..reports.finished import plain


def setting(default: Any, help: str, **how: Any) -> Any:
    """A field of a settings class; `how` may hold `choices`, `flag` (another name on the command line) or `kind`."""
    return field(default=default, metadata={"help": help, **how})


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What every study can be told: how prompts are rendered, how responses are made, and where it runs."""

    template: str = setting("auto", "How prompts are rendered.", choices=("auto", "chat", "plain", "raw"))
    system: str | None = setting(None, "System prompt.")
    thinking: bool = setting(False, "Let a thinking model think; what follows the thought is graded.")
    template_argument: tuple[str, ...] = setting((), "NAME=VALUE for the chat template; repeatable.")
    control_tokens: bool = setting(False, "Read marks such as <|im_end|> in prompts as the tokens that they name.")
    as_published: bool = setting(False, "Put the begin token twice before templated text, as in the CNA paper's code.")
    max_new_tokens: int = setting(32, "New tokens of a response at most.")
    seed: int = setting(0, "Seed of every random choice.")
    dtype: str = setting("auto", "Number format of the weights; auto is the checkpoint's own.")
    device: str | None = setting(
        None, "Where the model runs: cpu, cuda:1, several as in cuda:0,cuda:1, auto (the default): all GPUs."
    )
    max_rows: int = setting(256, "Rows of one batch.")
    strongreject: str | None = setting(
        None, "Judge of the StrongREJECT rubric: a model, https://host/v1#model or recorded:FILE."
    )
    benchmark: tuple[str, ...] = setting(
        (), "Benchmark to stand beside: NAME from the hub or NAME=FILE, e.g. mmlu, xstest=xstest.csv; repeatable."
    )
    n_benchmark: int = setting(100, "Prompts, or items, of each benchmark at most.")
    controls: int = setting(50, "Matched random controls of each intervention that a claim is about.")
    n_control_prompts: int = setting(32, "Prompts at most on which an intervention is set beside its controls.")

    def chat_template(self) -> Template:
        """How prompts are rendered, as one object."""
        pairs = [text.partition("=") for text in self.template_argument]
        wrong = [name for name, sign, _ in pairs if not sign]
        if wrong:
            raise InputError(f"--template-argument {wrong[0]!r} has no '='; give NAME=VALUE")
        arguments = {name: value for name, _, value in pairs}
        how = {"control_tokens": self.control_tokens, "as_published": self.as_published}
        return Template(self.template, self.system, self.thinking, arguments, **how)  # type: ignore[arg-type]

    @cached_property
    def _judge(self) -> Judge | None:
        """The judge that is named, loaded once for these settings."""
        return None if self.strongreject is None else judge_from(self.strongreject)

    def rubric(self) -> tuple[Grade, ...]:
        """The StrongREJECT rubric where a judge is named."""
        return () if self._judge is None else (strongreject(self._judge),)

    def benchmarks(self, *models: Model, outcome: Grade | None = None) -> tuple[Benchmark, ...]:
        """The benchmarks that are named, without prompts that do not fit in the context of one of the models.

        `outcome` grades answers to requests (default: by text alone).
        """
        judge = self._judge if self.benchmark else None
        found = load_benchmarks(self.benchmark, n=self.n_benchmark, seed=self.seed, outcome=outcome, judge=judge)
        for model in models:
            template = self.chat_template().frozen(model.tokenizer)
            found = that_fit(found, model, template=template, max_new_tokens=self.max_new_tokens)
        return found

    def facts(self) -> dict[str, Any]:
        """The settings as plain values, for a manifest."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}
