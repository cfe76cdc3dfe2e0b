"""The report of a study: a verdict in one sentence and one picture, then everything else, the same way for every study.

A study says only what is its own: which claims are the main ones, which picture shows them, what was asked, and which
tables and figures belong together (`Part`). All of it is plain data, so that a saved study's report is written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..checks import check_arguments
from ..errors import InputError, listed
from ..evaluation.verdicts import FAILED, HELD, UNDECIDED, UNMEASURED, together
from ..plots import Section, TokenHeatmaps

#: A heat map's rows: label, tokens and their values.
Rows = Sequence[tuple[str, Sequence[str], Sequence[float]]]
_SAID = {HELD: "held", FAILED: "did not hold", UNDECIDED: "is undecided", UNMEASURED: "could not be measured"}
_MISSED = "Claims that failed, stay undecided at this n, or could not be measured here."
_CLAIMS = "Each claim stands with the rule that decides it; one marked (ours) is not the paper's."
#: What stands on every report about them.
ORGANISMS = "These are model organisms of a few million parameters: nothing here is a finding about real models."


@dataclass(frozen=True)
class Part:
    """A part of the report by names: tables by what their titles begin with, figures by name."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[str] = ()
    figures: Sequence[str] = ()
    heatmaps: Mapping[str, Rows] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What a study's report says: the verdict, the picture beside it, what was asked, and its parts in order.

    Tables and figures that stand in no part follow after the last one, so that none is left out.
    """

    verdict: str
    picture: str | None = None
    asked: Sequence[str] = ()
    parts: Sequence[Part] = ()

    def facts(self) -> dict[str, Any]:
        """As plain values, to be saved."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Page:
        """From what `facts` gave."""
        return cls(**{**facts, "parts": tuple(Part(**part) for part in facts["parts"])})


def claims_of(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The table of claims among a study's tables."""
    found = [table for title, table in tables.items() if title.startswith("Claims")]
    if not found:
        raise InputError(f"no table of claims; its title begins with 'Claims', there are {listed(tables)}")
    return found[0]


def verdict(claims: pd.DataFrame, main: Sequence[str]) -> str:
    """One sentence on the main claims: those of a table of claims that contain one of `main`.

    It begins with what follows for them together (held, held in part, did not hold, undecided, not measurable), and
    names each with what was measured. Without any of them, the sentence is about all claims.
    """
    if not len(claims):
        return "Not measurable: no claim could be asked."
    chosen = claims[[any(words in claim for words in main) for claim in claims["claim"]]] if main else claims
    chosen = chosen if len(chosen) else claims
    found = set(chosen["verdict"])
    outcome = "held in part" if HELD in found and len(found) > 1 else str(together(list(chosen["verdict"])))
    own = {kind: f" {words}" * (len(found) > 1) for kind, words in _SAID.items()}
    said = [f"{_name(one)}{own[one['verdict']]} ({one['measured']})" for _, one in chosen.head(4).iterrows()]
    if len(chosen) > 4:
        said = [*said[:2], f"of all {len(chosen)} main claims {_counts(chosen)}"]
    return f"{outcome.capitalize()}: {'; '.join(said)}."


def _name(claim: pd.Series) -> str:
    """A claim with the case, mode or prompts that it is about."""
    about = [str(claim[name]) for name in ("case", "mode", "prompts", "model") if claim.get(name)]
    return f"“{claim['claim']}”" + (f" [{', '.join(about)}]" if about else "")


def table_of(tables: Mapping[str, pd.DataFrame], name: str) -> dict[str, pd.DataFrame]:
    """The tables whose titles begin with a name."""
    return {title: table for title, table in tables.items() if title.split(":")[0] == name or title.startswith(name)}


def sections(
    said: Page,
    info: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, go.Figure],
    captions: Mapping[str, str],
) -> list[Section]:
    """The whole page: verdict and picture, what was asked, claims and what did not hold, the parts, how it was made."""
    drawn = {name: {_caption(name, captions): figure} for name, figure in figures.items()}
    first = drawn.get(said.picture or "", {})
    claims = table_of(tables, "Claims")
    every = pd.concat(claims.values()) if claims else pd.DataFrame()
    counted = f"Of {len(every)} claims in all: {_counts(every)}." if claims else ""
    page = [Section("", tuple(filter(None, (said.verdict, counted))), {}, first, lead=True)]
    page += [Section("What was asked", said.asked), *_claims(claims)]
    used, shown = {*claims}, {said.picture}
    for part in said.parts:
        own = {title: one for name in part.tables for title, one in table_of(tables, name).items()}
        pictures = [name for name in part.figures if name in drawn and name not in shown]
        maps = {label: TokenHeatmaps(rows) for label, rows in part.heatmaps.items() if rows}
        if own or pictures or maps:
            found = {caption: one for name in pictures for caption, one in drawn[name].items()}
            page.append(Section(part.title, part.text, own, found, maps, opened=part.title == READ))
        used, shown = used | {*own}, shown | {*pictures}
    rest = {caption: one for name, own in drawn.items() if name not in shown for caption, one in own.items()}
    left = {title: one for title, one in tables.items() if title not in used}
    if rest or left:
        page.append(Section("Further figures and tables" if said.parts else "Figures and tables", (), left, rest))
    return [*page, _made(info)]


#: The part whose tables are shown open: responses beside their prompts.
READ = "Responses to read"


def _caption(name: str, captions: Mapping[str, str]) -> str:
    return captions.get(name) or name.replace("_", " ")


def _counts(claims: pd.DataFrame) -> str:
    """How many claims have each outcome, in words."""
    found = claims["verdict"].value_counts()
    return ", ".join(f"{found[name]} {name}" for name in _SAID if name in found)


def _claims(claims: Mapping[str, pd.DataFrame]) -> list[Section]:
    if not claims:
        return []
    found = Section("Claims beside what was measured", (_CLAIMS,), claims)
    every = pd.concat(claims.values())
    missed = every[every["verdict"] != HELD].drop(columns="rule", errors="ignore")
    if missed.empty:
        return [found, Section("What did not hold", ("Every claim that was measured held.",))]
    return [found, Section("What did not hold", (_MISSED,), {"Claims that did not hold": missed}, opened=True)]


def _made(info: Mapping[str, Any]) -> Section:
    """Command line, hardware, versions, seed and date first, then every other fact."""
    first = ("command", "hardware", "versions", "commit", "seed", "made", "seconds")
    names = [*(name for name in first[1:] if name in info), *(name for name in info if name not in (*first, "title"))]
    rows = [{"setting": name, "value": _words(info[name])} for name in names]
    command = [f"$ {info['command']}"] if info.get("command") else []
    title = "Hardware, versions, seed, date and settings"
    return Section("How it was made", command, {title: pd.DataFrame(rows)}, opened=True)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_words(one)}" for name, one in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, (list, tuple)) else str(value)


check_arguments(__name__)
