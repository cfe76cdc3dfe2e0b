"""The documentation site: what is added as docs/extending.md says works, nothing is lost, nothing is fetched."""

import contextlib
import io
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import mechsurgery
from mechsurgery.attribution.localisers import LOCALISERS
from mechsurgery.organisms.registry import ORGANISMS

ROOT = Path(__file__).parents[1]
CARDS = (ROOT / "docs" / "organisms.md").read_text(encoding="utf-8")

sys.path.insert(0, str(ROOT / "docs" / "site"))
api, organisms = import_module("api"), import_module("organisms")


@pytest.fixture(scope="module")
def added():
    """Everything that the page of extensions makes."""
    text, before, shared = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), dict(LOCALISERS), {}
    with contextlib.redirect_stdout(io.StringIO()):
        for code in re.findall(r"```python\n(.*?)```", text, re.S):
            exec(code, shared)
    shared["known"] = set(LOCALISERS) - set(before)
    LOCALISERS.clear()
    LOCALISERS.update(before)
    return shared


def test_an_added_localiser_scores_what_it_says(added):
    assert added["known"] == {"quiet difference"}
    statistics, circuit = added["problem"].statistics, added["circuit"]
    site, (indices, scores) = next((s, units) for s, units in circuit.units.items() if len(units[0]))
    i = int(indices[0])
    spread = (statistics.negative.variance(site)[i] + statistics.negative.mean[site][i] ** 2) ** 0.5
    means = (side.mean[site][i] for side in (statistics.positive, statistics.negative))
    assert float(scores[0]) == pytest.approx(abs(float(next(means) - next(means))) / (float(spread) + 1e-3), rel=1e-5)


def test_an_added_intervention_does_nothing_at_0_and_all_at_1(added):
    model, clipped, circuit = added["model"], added["clipped"], added["circuit"]
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    # The first layer with units: later ones also see what clipping changed before them.
    site, (indices, _) = next(item for item in circuit.units.items() if len(item[1][0]))
    seen, plain = {}, model(ids)

    def read(run):
        with mechsurgery.applied(model, run), model.hooks([(site, lambda a, hook: seen.update(it=a.clone()))]):
            return model(ids), seen["it"][..., indices]

    (same, before), (changed, after) = read(clipped.at(0)), read(clipped)
    assert torch.equal(same, plain)
    assert before.abs().max() > 0.05
    assert torch.allclose(after, before.clamp(-0.05, 0.05))
    assert not torch.equal(changed, plain)
    assert len(clipped.random_like(0).edits) == len(clipped.edits)


def test_an_added_grade_and_model_go_everywhere(added):
    assert added["warned"].outcome.shows == "warns"
    assert set(added["results"].table["metric"]) >= {"short", "warned"}
    own, same = (mechsurgery.locate(added[name], added["contrast"], k=3) for name in ("own", "mine"))
    assert own.members() == same.members()


def test_no_number_of_an_organism_is_lost_or_changed():
    rows = [line for line in CARDS.splitlines() if line.startswith("| organism/")]
    pages = {name: organisms.page(name) for name in organisms.names()}
    assert [f"organism/{name}" for name in pages] == list(ORGANISMS)
    shown = [line for page in pages.values() for line in page.splitlines() if line.startswith("| organism/")]
    assert sorted(shown) == sorted(rows)
    for name, page in pages.items():
        assert f"**{name.removesuffix('-twin')}**" in page
        assert "## How it was made" in page


def test_an_organism_without_a_card_is_an_error():
    with pytest.raises(ValueError, match="nameless"):
        organisms.cards(CARDS, "nameless")


def test_every_public_name_has_a_line_in_the_api():
    overview = api.overview()
    assert [name for name in mechsurgery.__all__ if f"`{name}`" not in overview] in ([], ["__version__"])
    pages = "".join(api.page(room) for room in api.rooms())
    assert "::: mechsurgery.evaluation.evaluate\n" in pages
    assert "mechsurgery.cli" not in pages
    assert not re.search(r":::.*\._", pages)


def test_examples_in_docstrings_become_code():
    pytest.importorskip("griffe")
    fenced = import_module("docstrings").fenced
    assert fenced("Say.\n\n>>> 1 + 1\n2\n\nMore.") == "Say.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."


def test_links_lead_to_the_page_or_become_text():
    pytest.importorskip("mkdocs")
    rewritten = import_module("hooks").rewritten
    text = "[a](../README.md#x) [b](../notebooks/01.ipynb) [c](../tests/a.py) [d](start.md) [e](https://e.org)"
    assert rewritten(text, "docs", "choosing.md") == (
        "[a](index.md#x) [b](notebooks/01.ipynb) c [d](start.md) [e](https://e.org)"
    )
    assert rewritten("[a](../methods.md)", "docs/papers", "papers/cna.md") == "[a](../methods.md)"
    assert rewritten("![p](figures/readme/a.png)", ".", "index.md") == "![p](figures/readme/a.png)"
    assert rewritten("```\n[a](b.md)\n```", ".", "index.md") == "```\n[a](b.md)\n```"


def test_links_of_notebooks_lead_to_pages_too():
    pytest.importorskip("mkdocs")
    pairs = {
        "../docs/localisers.md#leaderboard": "../localisers.html#leaderboard",
        "../README.md": "../index.html",
        "02_more.ipynb": "02_more.html",
        "../docs/papers/cna.md": "../papers/cna.html",
        "https://e.org/a.md": "https://e.org/a.md",
        "#here": "#here",
    }
    for before, after in pairs.items():
        assert import_module("hooks").in_notebook(f'<a href="{before}">') == f'<a href="{after}">'


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_requests_nothing(tmp_path):
    pytest.importorskip("mkdocs_jupyter")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = [page for page in tmp_path.rglob("*.html") if page.name != "404.html"]  # that one's links begin at the root
    names = {str(page.relative_to(tmp_path)) for page in pages}
    assert {"index.html", "start.html", "papers/cna.html", "organisms/loud.html", "api/evaluation.html"} <= names
    loads = r"<(?:script|link|img|iframe|source|video)[^>]+(?:src|href)=[\"']?(?:https?:)?//|import\(\s*[\"']https?:"
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(loads, text), page.name
        dead = [link for link in re.findall(r'href="(?!\w+:)([^"#?]+)', text) if not (page.parent / link).exists()]
        assert dead == [], page.name
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import", style.read_text(encoding="utf-8")), style.name
