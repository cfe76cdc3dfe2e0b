"""What the site has beside the pages of docs/, so that nothing is written twice.

The README is the first page and the changelog another; notebooks are those of notebooks/ as they are, never executed;
every organism gets a page cut out of docs/organisms.md and the record of how it was made; the API comes from
docstrings, a page for each room of the package. Links that lead out of docs/ on GitHub lead to these pages here.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import api
import organisms

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = sorted((ROOT / "figures" / "readme").glob("*.png"))
#: Files outside docs/ -> their page here.
MOVED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_MERMAID = re.compile(r"<script[^>]*>(?:(?!</script>).)*mermaid\.esm(?:(?!</script>).)*</script>", re.S)
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the parts of the navigation that are made here."""
    parts: dict[str, list[Any]] = {
        "Organisms": ["organisms.md", *(f"organisms/{name}.md" for name in organisms.names())],
        "Notebooks": [{titled(path): f"notebooks/{path.name}"} for path in NOTEBOOKS],
        "API": ["api/index.md", *(f"api/{room}.md" for room in api.rooms())],
    }
    config.nav = [{title: parts.get(title, value) for title, value in entry.items()} for entry in config.nav or []]
    return config


@event_priority(100)  # before the plugin that looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what does not lie in docs/."""
    for outside, page in MOVED.items():
        text = (ROOT / outside).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=rewritten(text, ".", page)))
    for path in (*NOTEBOOKS, *PICTURES):
        name = str(path.relative_to(ROOT))
        files.append(File(name, str(ROOT), config.site_dir, use_directory_urls=False))
    for name in organisms.names():
        files.append(File.generated(config, f"organisms/{name}.md", content=organisms.page(name)))
    files.append(File.generated(config, "api/index.md", content=api.overview()))
    for room in api.rooms():
        files.append(File.generated(config, f"api/{room}.md", content=api.page(room)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links of pages under docs/ that lead out of it."""
    if page.file.generated_by is not None:
        return markdown
    here = page.file.src_uri
    return rewritten(markdown, posixpath.dirname(posixpath.join("docs", here)), here)


def titled(notebook: Path) -> str:
    """The heading of a notebook, up to its colon."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = re.search(r"^# (.+)$", text, re.M)
    return notebook.stem if found is None else found[1].split(":")[0]


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> str:
    """Notebook pages: their links as the site needs them, and no script that loads Mermaid from another host."""
    if not page.file.src_uri.startswith("notebooks/"):
        return output
    return in_notebook(_MERMAID.sub("", output))


def in_notebook(output: str) -> str:
    """The page of a notebook with its links to other files of the repository leading to their pages here."""

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        path = posixpath.normpath(posixpath.join("notebooks", target))
        there = MOVED.get(path, path.removeprefix("docs/"))
        relative = posixpath.relpath(posixpath.splitext(there)[0], "notebooks") + ".html"
        return f'href="{relative}{"#" + anchor if anchor else ""}"'

    return re.sub(r'href="(?P<target>(?!https?:|/)[^"#]+\.(?:md|ipynb)(?:#[^"]*)?)"', link, output)


def rewritten(markdown: str, folder: str, page: str) -> str:
    """Relative links of a file in `folder` of the repository, as the site's `page` needs them.

    What has no page here, such as a source file, becomes plain text.
    """

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        if re.match(r"https?:|mailto:", found["target"]) or not target:
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith("docs/"):
            there = path.removeprefix("docs/")
        elif path in MOVED:
            there = MOVED[path]
        elif path.startswith(("notebooks/", "figures/readme/")):
            there = path
        else:
            return found["text"]
        relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
        return f"{found['picture']}[{found['text']}]({relative}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)
