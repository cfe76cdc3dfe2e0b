"""Every figure of a finished folder drawn again from what was saved there, at any size, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, LoadError, listed
from ..evaluation import Results
from ..evaluation.evaluate import BESIDE
from ..plots import Drawing, draw, export_all, load_drawings
from ..written import writing_into
from .study import STUDY, Study, slug

#: Metrics of every response that a picture of an evaluation shows where there are no labels.
_NUMBERS = ("quality", "kl", "tokens")


def redraw(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    only: Sequence[str] = (),
    preset: str | None = None,
    formats: Sequence[str] | None = None,
) -> str:
    """Draw the figures of a study, of an evaluation or of a comparison again, and say what was written.

    They go to `folder/figures`, with a `preset` (a size: column, text, slide, screen) to `folder/figures/PRESET`, or to
    `out`; those of a study of several models, model by model. A study whose whole set is drawn as it was gets its
    report anew as well. `only` names some of the figures.
    Raises `LoadError` where the folder holds nothing that can be drawn, `InputError` for unknown names.
    """
    folder = Path(folder)
    study = Study.load(folder) if (folder / STUDY).is_file() else None
    drawings, captions = (dict(study.drawings), study.captions) if study else drawings_of(folder)
    if not drawings:
        inside = sorted(one.parent for one in folder.glob(f"*/{STUDY}"))
        if not inside:
            raise LoadError(f"{str(folder)!r} has no figures, and no folder in it has")
        how: dict[str, Any] = {"only": only, "preset": preset, "formats": formats}
        return "\n".join(redraw(one, out=None if out is None else Path(out) / one.name, **how) for one in inside)
    unknown = [name for name in only if name not in drawings]
    if unknown:
        raise InputError(f"no figure {listed(unknown)} in {str(folder)!r}; there are {listed(drawings, 40)}")
    target = Path(out) if out is not None else folder / "figures" / (preset or "")
    if out is None and not target.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{str(target)!r} leads out of {str(folder)!r}; say with --out where figures are to be written"
        )
    asked: dict[str, Any] = {"size": preset, "formats": None if formats is None else tuple(formats)}
    given = {name: value for name, value in asked.items() if value is not None}
    with writing_into(folder):
        if study is not None and not only and not given:
            return study.report(folder, target)
        return _export(drawings, captions, target, only, given)


def _export(
    drawings: dict[str, Drawing], captions: Mapping[str, str], target: Path, only: Sequence[str], given: dict[str, Any]
) -> str:
    chosen = {name: one.figure() for name, one in drawings.items() if not only or name in only}
    return export_all(chosen, target, {name: captions[name] for name in chosen if name in captions}, **given)


def drawings_of(folder: Path) -> tuple[dict[str, Drawing], dict[str, str]]:
    """The drawings that were saved in a folder, or those of the results in it."""
    if not (folder / "drawings.json").is_file() and (folder / "results.parquet").is_file():
        return evaluation_drawings(Results.load(folder)), {}
    return load_drawings(folder)


def evaluation_drawings(results: Results) -> dict[str, Drawing]:
    """Pictures of an evaluation: what responses are on every prompt set, side effects, and both over strength."""
    summary = results.summary()
    control = summary["prompt_set"].str.endswith(BESIDE)
    found: dict[str, Drawing] = {}
    for (metric, where), rows in summary[(summary["label"] != "") & ~control].groupby(
        ["metric", "prompt_set"], sort=False
    ):
        beside = summary[control & summary["control_of"].notna() & (summary["prompt_set"] == f"{where}{BESIDE}")]
        whole = pd.concat([rows, beside[beside["metric"] == metric].assign(prompt_set=where)], ignore_index=True)
        found[f"{slug(str(metric))}_{slug(str(where))}"] = draw(
            "shares", _by_setting(whole), metric, where, about=f"{metric} on {where}"
        )
    main = summary[~control & summary["control_of"].isna()]
    panels = _panels(main)
    if panels:
        found["side_effects"] = draw("bars", _by_setting(main), panels)
    if main.loc[main["kind"] != "baseline", "strength"].nunique() > 1 and panels:
        x = "m" if main.loc[main["kind"] != "baseline", "m"].notna().all() else "strength"
        few = [one for one in panels if one[2] or one[0] in ("choice", "quality")]
        found["over_strength"] = draw("curves", main, few or panels, x=x)
    return found


def _panels(main: pd.DataFrame) -> list[tuple[str, str, str | None]]:
    """Shares of labels, then rates and a few numbers, each on each set."""
    rows = main[["metric", "prompt_set", "label", "scale"]].drop_duplicates()
    shown = rows[(rows["scale"] == "rate") | rows["metric"].isin(_NUMBERS)]
    shown = shown.sort_values("label", key=lambda own: own == "", kind="stable")
    return [(row.metric, row.prompt_set, row.label or None) for row in shown.itertuples()]


def _by_setting(summary: pd.DataFrame) -> pd.DataFrame:
    """Interventions named with their strength where there are several; random ones with that of their own."""
    tried = summary["kind"] != "baseline"
    if summary.loc[tried, "strength"].nunique() < 2:
        return summary
    at = summary["m"].where(summary["m"].notna(), summary["strength"]).map(" at {:g}".format)
    named = {
        name: (summary[name] + at).where(tried & summary[name].notna(), summary[name])
        for name in ("intervention", "control_of")
    }
    return summary.assign(**named)


check_arguments(__name__)
