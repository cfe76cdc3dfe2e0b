"""The notebooks: each runs from top to bottom, and what is kept of it can be read without running it."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
sys.path.insert(0, str(FOLDER))
execute = import_module("execute")

#: Notebook -> how many cells of code it has at most; a notebook is to be read at one go.
CELLS = {
    "01_quickstart": 6,
    "02_base_against_instruct": 9,
    "03_explore_one_neuron": 9,
    "04_sae_latents": 7,
    "05_finetune_few_neurons": 6,
    "06_weight_steering": 7,
    "07_your_own_behaviour": 8,
    "08_smallest_circuit": 7,
}
PICTURE, LIMIT = "image/png", 1_000_000
LOADED = re.compile(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//|url\(\s*["']?https?:|\]\(https?:|cdn\.""", re.I)
ABSOLUTE = re.compile(r"(?<![\w.:])/(?:home|root|tmp|Users|work|mnt|var|usr|opt)/|\b[A-Z]:\\\w")
notebooks = pytest.mark.parametrize("name", CELLS)


def kept(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell shows, figures being pictures; the words of streams do not matter, that there are some does."""
    shown = [set(output.get("data", {})) or {output.get("name", output.output_type)} for output in cell.outputs]
    return [{PICTURE, "text/plain"} if execute.FIGURE in one else one - {execute.WIDGET} for one in shown]


def test_there_is_a_notebook_for_each_name_and_no_other():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(CELLS)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """{name: cells of code, just run}; raises where one fails.

    All run in one kernel that forgets its names in between: to start one takes longer than most of them.
    """
    pytest.importorskip("sae_lens")
    pytest.importorskip("anywidget")
    fresh, whole = {name: kept(name) for name in CELLS}, nbformat.v4.new_notebook()
    for name, notebook in fresh.items():
        place = str(tmp_path_factory.mktemp(name))
        anew = f"%reset -f\nimport os\nos.chdir({place!r})\ndel os"
        whole.cells += [nbformat.v4.new_code_cell(anew), *notebook.cells]
    for number, cell in enumerate(whole.cells):
        cell["id"] = f"cell-{number:03d}"
    execute.run(whole, tmp_path_factory.mktemp("all"))
    return {name: code(notebook) for name, notebook in fresh.items()}


@pytest.mark.slow
@notebooks
def test_it_runs_and_shows_what_is_kept(shown, name):
    for now, before in zip(shown[name], code(kept(name)), strict=True):
        assert not any(output.get("name") == "stderr" for output in now.outputs), now.outputs
        assert kinds(now) == kinds(before), now.source


@notebooks
def test_what_is_kept_was_run_in_order_and_is_small(name):
    cells = code(kept(name))
    assert len(cells) <= CELLS[name]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(
        output.get("name") == "stderr" or output.output_type == "error" for c in cells for output in c.outputs
    )
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LIMIT


@notebooks
def test_every_figure_is_followed_by_a_sentence_with_one_of_its_numbers(name):
    cells, found = kept(name).cells, 0
    for cell, following in zip(cells, [*cells[1:], None]):
        for output in cell.get("outputs", ()):
            if PICTURE not in output.get("data", {}):
                continue
            found += 1
            assert following is not None
            assert following.cell_type == "markdown", cell.source
            said = following.source.replace("−", "-").replace(" %", "%")
            assert said.strip().endswith("."), said
            assert not said.startswith("#"), said
            numbers = set(re.findall(r"\d+(?:\.\d+)?%?", output["data"]["text/plain"]))
            assert numbers & set(re.findall(r"\d+(?:\.\d+)?%?", said)), (numbers, said)
    assert found


@notebooks
def test_nothing_is_loaded_from_elsewhere_and_no_folder_of_a_machine_is_named(name):
    notebook = kept(name)
    texts = [cell.source for cell in notebook.cells]
    for cell in code(notebook):
        for output in cell.outputs:
            texts += [output.get("text", "")]
            texts += [text for kind, text in output.get("data", {}).items() if kind != PICTURE]
            assert not any("javascript" in kind or "plotly" in kind for kind in output.get("data", {}))
    for text in texts:
        assert not LOADED.search(text), LOADED.search(text)
        assert "<script" not in text
        assert not ABSOLUTE.search(text), ABSOLUTE.search(text)
    links = [link for text in texts for link in re.findall(r"\]\(([^)#]+)", text)]
    assert [link for link in links if not (FOLDER / link).exists()] == []


@notebooks
def test_the_model_is_named_in_one_line_near_the_top(name):
    first = code(kept(name))[0].source
    lines = [line for line in first.splitlines() if re.match(r"(?:BASE, )?MODEL\b.*= ", line)]
    assert len(lines) == 1
    rest = first.replace(lines[0], "") + "".join(cell.source for cell in code(kept(name))[1:])
    assert not re.search(r'load_model\("', rest)


def test_a_figure_is_kept_with_its_title_as_plain_text():
    assert execute.title_of({"layout": {"title": {"text": "5 &lt; 6 <b>of</b><br>two"}}}) == "5 < 6 of two"
    assert execute.title_of({"layout": {}}) == "a figure"
