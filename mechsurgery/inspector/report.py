"""A circuit as one self-contained page: the explorer's front end with every unit's page in it, and no network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..artifacts import write_text
from ..checks import check_arguments
from ..errors import InputError
from ..progress import with_progress
from ..safe_text import html_text
from .catalogue import Catalogue
from .fragment import style


def report(catalogue: Catalogue, path: str | Path, *, progress: bool | None = None) -> Path:
    """Write the table of a catalogue and the page of each of its units as one HTML file.

    It needs no network and no other file, and runs no script but its own. How many units and contexts it holds is the
    catalogue's `at_most` and `contexts`.
    """
    document = catalogue.document(live=False)
    names = [unit["name"] for unit in document["units"]]
    catalogue.prepare()
    pages = {name: catalogue.page(name) for name in with_progress(names, "writing pages", shown=progress, unit="unit")}
    return write_text(path, offline_page({**document, "pages": pages}))


def offline_page(document: dict[str, Any]) -> str:
    """The explorer's page with a document in it and nobody to ask."""
    start = "const d=JSON.parse(document.getElementById('ms-document').textContent);"
    return page_with(document, f"{start}mount(document.getElementById('ms-root'),d,null);")


def page_with(document: dict[str, Any], start: str, *, connect: str = "'none'") -> str:
    """A whole document: styles, a document as JSON in `#ms-document`, `#ms-root`, the front end, and `start` after it.

    `connect` is where the page's scripts may connect to, in the words of a content-security policy.
    """
    if "title" not in document:
        raise InputError("this is no document of the explorer: it has no title; make it with Catalogue.document")
    script = f"{_module()}\n{start}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html_text(str(document['title']))}</title><style>body{{margin:0}}{styles()}</style></head>"
        f"<body><div id='ms-root'></div><script type='application/json' id='ms-document'>{_inert(document)}</script>"
        f"<script type='module'>{script}</script></body></html>"
    )


@cache
def styles() -> str:
    """The style sheets of the explorer and of units' pages."""
    return front_end("explorer.css") + style()


def front_end(name: str) -> str:
    """One of the explorer's files."""
    return resources.files(__package__).joinpath(f"static/{name}").read_text(encoding="utf-8")


def _module() -> str:
    source = front_end("explorer.js")
    if "</script" in source.lower():
        raise AssertionError("the front end's script would end the script element that it stands in")
    return source


def _inert(document: dict[str, Any]) -> str:
    """JSON in which nothing can end its script element; short, since most of it is pages."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half a pair of surrogates is no UTF-8.
    text = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half.group()):04x}", text)
    return re.sub(r"<(?=!|script)", r"\\u003c", text.replace("</", r"<\/"), flags=re.IGNORECASE)


check_arguments(__name__)
