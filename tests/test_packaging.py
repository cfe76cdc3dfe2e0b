"""What is installed: extras, what the package holds, and the README as a package index shows it."""

import importlib.util
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

_spec = importlib.util.spec_from_file_location("setup_of_mechsurgery", ROOT / "setup.py")
assert _spec is not None
assert _spec.loader is not None
setup = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(setup)


def names(requirements):
    return {re.match(r"[\w-]+", one)[0].lower() for one in requirements}


def test_a_plain_install_is_light():
    heavy = {
        "sae-lens",
        "kaleido",
        "scikit-learn",
        "lm-eval",
        "jupyterlab",
        "anywidget",
        "httpx",
        "mkdocs-material",
        "ray",
    }
    assert not names(PROJECT["dependencies"]) & heavy


def test_all_has_every_extra_for_users_and_tests_have_what_they_need():
    (everything,) = EXTRAS["all"]
    inside = set(re.search(r"\[(.*)\]", everything)[1].split(","))
    assert inside == set(EXTRAS) - {"all", "test", "lint", "docs", "ray"}
    assert names(EXTRAS["saes"]) == {"sae-lens"}
    assert names(EXTRAS["images"]) == {"kaleido"}


def test_every_extra_that_an_error_names_exists():
    named = {
        extra
        for path in (ROOT / "mechsurgery").rglob("*.py")
        for line in re.findall(r"mechsurgery\[([\w,-]+)\]|needs_extra\(\s*\"([\w-]+)\"", path.read_text("utf-8"))
        for extra in "".join(line).split(",")
    }
    assert {"saes", "probes", "images", "judge", "lm-eval"} <= named
    assert named - {"extra"} <= set(EXTRAS)


def test_every_package_that_is_pinned_for_the_site_is_in_the_constraints():
    pinned = names((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[2:])
    assert names(EXTRAS["docs"]) <= pinned


def test_the_index_page_has_no_link_that_leads_nowhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for address in (None, "https://example.org/a/b"):
        page = setup.index_page(readme, address)
        outside = re.sub(r"```.*?```", "", page, flags=re.S)
        assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]+)\)", outside))
        assert re.findall(r"```.*?```", page, re.S) == re.findall(r"```.*?```", readme, re.S)
        assert ("figures/readme/outcomes.png" in page) == (address is not None)
    assert "](https://example.org/a/b/blob/HEAD/docs/architecture.md)" in page
    assert "](https://example.org/a/b/raw/HEAD/figures/readme/outcomes.png)" in page


def test_addresses_come_from_the_citation_file_alone():
    assert setup.repository("title: x\nrepository-code: 'https://example.org/a/b/'\n") == "https://example.org/a/b"
    assert setup.repository("title: x\n") is None
    assert setup.urls(None) == {}
    assert set(setup.urls("https://e.org")) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
