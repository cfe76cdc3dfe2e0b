"""What pyproject.toml cannot say: the project's addresses, and the README as a package index shows it.

An index shows the README without the repository beside it, so relative links would lead nowhere. Where CITATION.cff
has a line `repository-code: https://…` these links become absolute and the package gets its addresses; where it has
none, links become plain text and pictures are left out.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
BRANCH = "HEAD"
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def repository(citation: str) -> str | None:
    """The address of the repository that a CITATION.cff names, without a slash at its end."""
    found = re.search(r"^repository-code:\s*[\"']?(https?://[^\s\"']+)", citation, re.M)
    return None if found is None else found[1].rstrip("/")


def urls(address: str | None) -> dict[str, str]:
    """The addresses that an index shows beside the package."""
    if address is None:
        return {}
    return {
        "Homepage": address,
        "Documentation": f"{address}/blob/{BRANCH}/docs/start.md",
        "Source": address,
        "Changelog": f"{address}/blob/{BRANCH}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }


def index_page(readme: str, address: str | None) -> str:
    """The README with links that lead somewhere from anywhere; code stays as it is."""

    def link(found: re.Match[str]) -> str:
        picture, text, target = found["picture"], found["text"], found["target"]
        if re.match(r"https?:|mailto:|#", target):
            return found[0]
        if address is None:
            return "" if picture else text
        return f"{picture}[{text}]({address}/{'raw' if picture else 'blob'}/{BRANCH}/{target})"

    parts = re.split(r"(^```.*?^```$)", readme, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


if __name__ == "__main__":
    where = repository((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    setup(
        long_description=index_page((ROOT / "README.md").read_text(encoding="utf-8"), where),
        long_description_content_type="text/markdown",
        project_urls=urls(where),
    )
