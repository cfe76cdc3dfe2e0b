"""The notebooks on a model of another family: one line is changed, and everything else runs.

Trainings are cut short and prices of units low, since random models have nothing to be found in them.
"""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mechsurgery.errors import InputError

nbformat = pytest.importorskip("nbformat")
FOLDER = Path(__file__).parents[1] / "notebooks"
#: Notebook -> the family of the other model.
NAMES = {
    "01_quickstart": "llama",
    "02_base_against_instruct": "gemma2",
    "03_explore_one_neuron": "qwen2",
    "05_finetune_few_neurons": "gemma3",
    "06_weight_steering": "qwen3",
    "07_your_own_behaviour": "llama",
    "08_smallest_circuit": "qwen2",
}  # not 04: autoencoders are made for one model, and the shipped ones for an organism


def cells_of(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def on(source, model, base):
    """The first cell with the names of the models replaced, in their one line."""
    values = {"MODEL": model, "BASE": base}

    def line(found):
        names = found[1].split(", ")
        return f"{found[1]} = {', '.join(repr(str(values[one])) for one in names)}"

    changed, n = re.subn(r"^((?:\w+, )*MODEL(?:, \w+)*) = .*$", line, source, flags=re.M)
    assert n == 1
    return changed


def shortened(source):
    """A cell with few steps of training, prompts, controls and new tokens, and a unit for next to nothing."""
    source = re.sub(r"\b(steps|settle)=\d+", r"\1=16", source)
    source = re.sub(r"\b(Generation\((?:max_new_tokens=)?)\d+", r"\g<1>4", source)
    source = re.sub(r"\.take\((?:16|24|30)\)", ".take(6)", source)
    source = re.sub(r"\bcontrols=19\b", "controls=3", source)
    return re.sub(r"\b(prices?=\[?)[\d.]+", r"\g<1>0.0", source)


def like(directory, folder):
    """A directory with the same model, its weights moved: what a base is to its fine-tune."""
    base, noise = shutil.copytree(directory, folder), torch.Generator().manual_seed(1)
    weights = load_file(base / "model.safetensors")
    moved = {name: w * (1 + 0.3 * torch.randn(w.shape, generator=noise)) for name, w in weights.items()}
    save_file(moved, base / "model.safetensors", metadata={"format": "pt"})
    return base


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_another_model(name, tiny_checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("anywidget")
    monkeypatch.chdir(tmp_path)
    model = tiny_checkpoint(NAMES[name])
    first, *rest = (shortened(source) for source in cells_of(name))
    base = like(model, tmp_path / "base")
    shared: dict = {}
    for source in (on(first, model, base), *rest):
        exec(source, shared)


def test_a_model_without_a_template_is_found_out_before_anything_is_measured(tiny_checkpoint, capsys):
    first, *_ = cells_of("07_your_own_behaviour")
    with pytest.raises(InputError, match="no chat template"):
        exec(on(first, tiny_checkpoint("llama", template=False), None), {})
    assert capsys.readouterr().out == ""
