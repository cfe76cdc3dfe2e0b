"""The watch part: many kinds of fine-tunes, some of which spoil a behaviour, told apart by cosine and by behaviour."""

from __future__ import annotations

from itertools import product

import pandas as pd

from ...deltas import WeightDelta
from ...organisms.tasks import FINE_TUNES, FineTune
from ...plots import Drawing, draw
from ...progress import with_progress
from ...reports.study import slug
from .bench import Bench, Report
from .data import Behaviour, WeightsData
from .detection import Watch, detection, onsets, roc_points, told
from .methods import Trainer
from .watch_claims import watching_claims
from .watching import Probe, Seen, Tuning, Watcher, shares


def watch_all(bench: Bench, data: WeightsData) -> Report:
    """Every kind of fine-tune with every seed, watched for the behaviours that drift."""
    behaviours = {drift.behaviour.name: drift.behaviour for drift in data.drifts}
    known = directions(bench, data.watched, behaviours)
    probes = [
        Probe(name, one.probe[0].take(bench.settings.n_watched), one.probe[1]) for name, one in behaviours.items()
    ]
    watches = [
        Watch(drift.behaviour.name, drift.behaviour.name, drift.behaviour.name, drift.pushes, spoiling(drift.behaviour))
        for drift in data.drifts
    ]
    watcher = Watcher(
        bench.model(data.watched), known, probes, bench.generation(data.watched), bench.settings.nulls, bench.out
    )
    seeds = range(bench.settings.seed, bench.settings.seed + bench.settings.watch_seeds)
    jobs = list(product(bench.settings.watched, seeds))
    seen = Seen.together(
        [
            watcher.watch(tuning(bench.trainer(data.watched, seed), kind))
            for kind, seed in with_progress(jobs, "watching fine-tunes", shown=bench.progress)
        ]
    )
    return report(seen, watches, known)


def report(seen: Seen, watches: list[Watch], known: dict[str, WeightDelta]) -> Report:
    """Tables, figures and claims of what was seen."""
    rows = {one.name: told(seen, one) for one in watches}
    detected = {one.name: detection(rows[one.name], one) for one in watches if one.bad}
    first = pd.concat(
        [onsets(rows[one.name]).assign(behaviour=one.name, bad=onsets_bad(rows[one.name], one)) for one in watches],
        ignore_index=True,
    )
    figures: dict[str, Drawing] = {}
    for one in watches:
        figures |= _figures(seen, one, rows[one.name], detected.get(one.name))
    tables = [table for table in detected.values() if len(table)]
    told_apart = {DETECTION: pd.concat(tables, ignore_index=True)} if tables else {}
    return Report(
        watching_claims(detected),
        {
            **told_apart,
            "Cosines: last look at every fine-tune": last_looks(rows, watches),
            "Onsets: which shows first": first[["behaviour", "task", "bad", *ONSETS]],
        },
        figures,
        {"watch, cosines": seen.cosines, "watch, answers": seen.answers},
        {f"watched: {name}": delta for name, delta in known.items()},
    )


DETECTION = "Watching: detection by the cosine with the behaviour's direction"
ONSETS = ["seed", "cosine from step", "behaviour from step", "first"]


def onsets_bad(rows: pd.DataFrame, watch: Watch) -> list[bool]:
    """For each row of `onsets`, whether that fine-tune is expected to be bad."""
    return [task in watch.bad for task in onsets(rows)["task"]]


def spoiling(behaviour: Behaviour) -> tuple[str, ...]:
    """The fine-tunes that are expected to spoil a behaviour."""
    return tuple(kind.name for kind in FINE_TUNES if behaviour.name in kind.bad_for)


def directions(bench: Bench, start: str, behaviours: dict[str, Behaviour]) -> dict[str, WeightDelta]:
    """W of every behaviour from the watched model."""
    trainer, rate = bench.trainer(start, bench.settings.seed), bench.settings.watch_lr
    return {name: trainer.contrast(one, rate).delta.named(f"w of {name}") for name, one in behaviours.items()}


def tuning(trainer: Trainer, kind: FineTune) -> Tuning:
    """A fine-tune of the world."""
    settings = trainer.settings
    lora = settings.lora(settings.task_rank)
    return Tuning(kind.name, trainer.task(kind), lora, settings.watched_recipe(), trainer.seed)


def last_looks(rows: dict[str, pd.DataFrame], watches: list[Watch]) -> pd.DataFrame:
    """A row for each behaviour and fine-tune: what the last look saw, mean over seeds with the cosines' extremes."""
    table = []
    for watch in watches:
        for task, group in rows[watch.name].groupby("task", sort=False):
            last = group[group["step"] == group["step"].max()]
            row = {"behaviour": watch.name, "fine-tune": task, "expected": "bad" if task in watch.bad else "other"}
            row |= {"cosine": last["cosine"].mean(), "seed_low": last["cosine"].min()}
            row |= {"seed_high": last["cosine"].max(), "null_low": last["null_low"].min()}
            row |= {"null_high": last["null_high"].max(), "p": last["p"].max()}
            if "shown" in last:
                row |= {name: last[name].mean() for name in ("shown", "well", "broken")}
                row["spoilt for sure"] = f"{int(last['sure'].sum())} of {len(last)}"
                row["n"] = int(last["n"].sum())
            table.append(row | {"step": int(last["step"].iloc[0]), "seeds": len(last)})
    return pd.DataFrame(table)


def _figures(seen: Seen, watch: Watch, rows: pd.DataFrame, detected: pd.DataFrame | None) -> dict[str, Drawing]:
    """Cosines and behaviour of all fine-tunes, bad ones apart; ROC curves at the first look and at the last."""
    name, own = slug(watch.name), dict.fromkeys(watch.bad, f"expected to spoil {watch.name}")
    cosines, options = seen.cosines, {"direction": watch.direction, "asked": f"{watch.probe} shown"}
    if own:
        cosines = cosines.assign(group=cosines["task"].map(own).fillna("other fine-tunes"))
    asked = seen.answers[seen.answers["probe"] == watch.probe]
    behaviour = shares(asked, pooled=True).rename(columns={"shown": "value"}) if len(asked) else None
    figures = {f"{name}_cosines": draw("cosine_trajectories", cosines, behaviour=behaviour, **options)}
    if detected is not None and len(detected):
        for word, step in (("first", int(detected["step"].min())), ("last", int(detected["step"].max()))):
            about = f"{watch.name.capitalize()}, step {step}"
            figures[f"{name}_roc_{word}"] = draw("roc_curves", roc_points(rows, watch, step), about=about)
    return figures
