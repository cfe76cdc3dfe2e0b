"""One study per paper: calls the verbs in the paper's order, returns its tables and figures.

`mechsurgery.studies.cna` is the function; `mechsurgery.studies.contrastive` holds its parts.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "cna":
        from .contrastive import cna

        return cna
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; studies: cna")
