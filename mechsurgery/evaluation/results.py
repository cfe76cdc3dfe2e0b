"""`Results`: the one tidy table of every study, with a manifest beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from os.path import lexists
from pathlib import Path
from typing import Any

import pandas as pd

from ..allowed import conforms
from ..artifacts import load_document, load_table, save_document
from ..checks import check_arguments
from ..errors import InputError, LoadError, listed
from ..reading import file_digest, readable, the_file
from ..safe_text import html_note, html_table
from ..writing import write_atomically
from .read import Compared, compared
from .summary import summarise
from .table import COLUMNS, typed
from .verdicts import cell

#: The file that says how the table came about, and those whose digests it has.
MANIFEST, _FILES = "manifest.json", ("results.parquet", "prompts.parquet")
#: Columns that every version has written.
_ALWAYS = ("model", "intervention", "strength", "prompt_set", "prompt_id", "metric", "value")


@dataclass(frozen=True, eq=False)
class Results:
    """A row per prompt, intervention, strength, seed and metric.

    `strength` is 0 for the unmodified model, `m` the multiplier of scaled units (missing where there is none), `toward`
    the strength on the behaviour's axis (negative: against it). `control_of` names the intervention that a matched
    random one is a control of. `value` is the metric's number (0 or 1 where `scale` is "rate"); where `scale` is
    "label", `label` says what the response is. `tokens` stands on the rows of the metric "tokens" alone. `prompts` has
    the text of every prompt (prompt_set, prompt_id, text, rendered, …); None in results of before it was kept.
    """

    table: pd.DataFrame
    info: dict[str, Any] = field(default_factory=dict)
    prompts: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if name not in self.table.columns]
        if missing:
            raise InputError(f"a results table needs the columns {listed(COLUMNS, 30)}; missing: {listed(missing, 30)}")

    def __len__(self) -> int:
        return len(self.table)

    def summary(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """A row per intervention, strength, prompt set and metric: n, value, 95 % interval, change and p-value.

        See `summarise`; `metrics` keeps only some.
        """
        return summarise(self.table, metrics, labels=self.info.get("labels", {}))

    def shares(self, metric: str) -> pd.DataFrame:
        """Of a metric that is a label: n and the share of each label with its interval, a row per intervention."""
        cells = self.summary([metric])
        cells = cells.assign(text=[cell(row, n=False) for _, row in cells.iterrows()])
        several = ["prompt_set"] if cells["prompt_set"].nunique() > 1 else []
        index = ["intervention", "strength", *several, "n"]
        table = cells.pivot_table(index=index, columns="label", values="text", aggfunc="first", sort=False)
        return table.reset_index().rename_axis(columns=None)

    def responses(self, intervention: str | None = None, *, metric: str | None = None, n: int = 10) -> pd.DataFrame:
        """A few responses to read, with what one metric (default: the first grade) says of them."""
        rows = self.table[self.table["response"].notna()]
        if intervention is not None:
            rows = rows[rows["intervention"] == intervention]
        if metric is None:
            graded = [name for name in rows["metric"].unique() if name not in ("tokens", "first_token")]
            metric = graded[0] if graded else "tokens"
        rows = rows[rows["metric"] == metric]
        return rows[["intervention", "strength", "m", "prompt_id", "response", "metric", "value", "label"]].head(n)

    def compare(
        self,
        intervention: str | None = None,
        *,
        grade: str | None = None,
        prompt_set: str | None = None,
        n: int | None = None,
    ) -> Compared:
        """Each prompt with the responses before and after an intervention and what they are, flips first.

        Columns prompt, before, after, label before, label after, flipped; intervention, strength, prompt_set, seed and
        model too where there are several. Default: every intervention that is no matched random control, every prompt
        set, the first grade that gives labels (else the first that says yes or no; right or wrong where questions have
        choices). `n` keeps the first rows. Shown whole in notebooks and by `to_html`. Raises `InputError` for names
        that are not there, and for results that were saved without the texts of their prompts.
        """
        return compared(self.table, self.prompts, intervention, grade=grade, prompt_set=prompt_set, n=n)

    def save(self, folder: str | Path) -> Path:
        """Write `results.parquet`, `prompts.parquet` (their texts) and `manifest.json` into a folder."""
        folder = Path(folder)
        written = {}
        for name, table in (("results.parquet", self.table), ("prompts.parquet", self.prompts)):
            if table is not None:
                path = write_atomically(folder / name, partial(table.to_parquet, index=False))
                written[name] = file_digest(path)
        save_document(folder / MANIFEST, "Results", {**self.info, "files": written})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Read what `save` wrote. Raises `LoadError` for files that are damaged, or another program's."""
        path = the_file(
            Path(folder) / "results.parquet", "there are no results; give the folder that .save(folder) was given"
        )
        info, files = _manifest(path.with_name(MANIFEST))
        for name, digest in files.items():
            own = path.with_name(name)
            # A folder or a broken link in its place is no file that somebody left out.
            if name not in _FILES or (lexists(own) and not (own.is_file() and file_digest(own) == digest)):
                raise LoadError(f"{str(own)!r} is not what was written beside its manifest; run evaluate again")
        texts = path.with_name("prompts.parquet")
        prompts = load_table(texts) if texts.is_file() and (not files or texts.name in files) else None
        rows = load_table(path)
        missing = [name for name in _ALWAYS if name not in rows.columns]
        if missing:
            lacks = f"lacks the columns {listed(missing, 30)}"
            raise LoadError(f"the table at {str(path)!r} is not one of an evaluation: it {lacks}")
        with readable(path, "results"):
            empty = [name for name in _ALWAYS if name not in ("strength", "value") and rows[name].isna().any()]
            if empty or rows.columns.duplicated().any():
                raise InputError(f"rows without {listed(empty)}" if empty else "a column stands twice")
            return cls(typed(rows), info, prompts)

    @classmethod
    def concatenate(cls, parts: Iterable[Results]) -> Results:
        """Rows of several results in one table (models, fine-tunes); rows that stand in several are kept once.

        Where models of one name have different weights, such as before and after `bake`, their fingerprints are added
        to the name, each has a baseline of its own.
        """
        parts = conforms(list(parts), list[Results], "what is put together")
        if not parts:
            raise InputError("no results to put together; give at least one")
        table = pd.concat([part.table for part in parts], ignore_index=True)
        unlike = table.groupby("model")["fingerprint"].transform("nunique") > 1
        table["model"] = table["model"].mask(unlike, table["model"] + " " + table["fingerprint"])
        # A number that was measured twice, in other batches, may differ in its last digits.
        same = table.assign(value=table["value"].where(table["scale"] != "number"))
        keys = [name for name in COLUMNS if name not in ("tokens", "response")]
        labels = {metric: names for part in parts for metric, names in part.info.get("labels", {}).items()}
        texts = [part.prompts for part in parts if part.prompts is not None]
        prompts = pd.concat(texts, ignore_index=True).drop_duplicates(ignore_index=True) if texts else None
        kept = table[~same.duplicated(keys)].reset_index(drop=True)
        return cls(kept, {"labels": labels, "parts": [part.info for part in parts]}, prompts)

    def _repr_html_(self) -> str:
        head = html_note(f"Results: {len(self.table):,} rows")
        return head + html_table(self.summary(), float_format="{:.3g}".format)


def _manifest(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(how the results came about, {file: digest}); of before there were digests, the facts alone."""
    info = load_document(path, "Results", None, "give the folder of an evaluation", finite=False)
    files = conforms(info.pop("files", {}), dict[str, str], f"'files' in {str(path)!r}", LoadError)
    conforms(info.get("labels", {}), dict[str, list[str]], f"'labels' in {str(path)!r}", LoadError)
    return info, files


check_arguments(__name__)
