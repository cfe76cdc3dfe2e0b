"""The package's surface: public names, the command line, the notebook."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import mechsurgery
from mechsurgery.cli import main
from mechsurgery.organisms.registry import ORGANISMS

ROOT = Path(__file__).parents[1]


def test_every_public_name_can_be_imported():
    for name in mechsurgery.__all__:
        assert getattr(mechsurgery, name) is not None
    with pytest.raises(AttributeError, match="public names"):
        _ = mechsurgery.nothing


def test_importing_and_help_load_nothing_heavy():
    heavy = "('torch', 'transformers', 'plotly', 'pandas')"
    code = f"import sys, mechsurgery, mechsurgery.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    out = CliRunner().invoke(main, ["--help"])
    assert out.exit_code == 0
    assert all(command in out.output for command in ("demo", "locate", "evaluate", "compare", "organisms"))


def test_locate_evaluate_and_compare_from_a_shell(tiny_llama_dir, tmp_path, contrast):
    for side in (contrast.positive, contrast.negative):
        side.to_frame()[["text"]].to_csv(tmp_path / f"{side.name}.csv", index=False)
    files = ["--positive", str(tmp_path / "positive.csv"), "--negative", str(tmp_path / "negative.csv")]
    run = CliRunner().invoke
    circuit = tmp_path / "c.safetensors"
    found = run(
        main, ["locate", str(tiny_llama_dir), *files, "-k", "5", "--rule", "effect_size", "--out", str(circuit)]
    )
    assert found.exit_code == 0, found.output
    assert len(mechsurgery.Circuit.load(circuit)) == 5
    options = ["--circuit", str(circuit), "--prompts", str(tmp_path / "positive.csv"), "--m", "0", "--m", "2"]
    size = ["--max-new-tokens", "4", "-n", "6", "--out", str(tmp_path / "run")]
    done = run(main, ["evaluate", str(tiny_llama_dir), *options, *size])
    assert done.exit_code == 0, done.output
    assert set(mechsurgery.Results.load(tmp_path / "run").table["m"]) == {0.0, 1.0, 2.0}
    wrong = run(main, ["locate", str(tiny_llama_dir)])
    assert wrong.exit_code == 1
    assert "either --contrast NAME" in wrong.output
    assert "Traceback" not in wrong.output
    assert run(main, ["organisms", "list"]).output.count("organism/") == len(ORGANISMS)


def test_compare_sees_that_a_model_is_itself(tiny_llama, tiny_checkpoint, contrast):
    same = mechsurgery.compare(tiny_llama, tiny_llama, contrast, fraction=0.05)
    assert same.overlap["jaccard"] == 1
    assert same.overlap["rank_correlation"] == pytest.approx(1)
    shifted = mechsurgery.load_model(tiny_checkpoint("llama", vocab_size=369))
    other = mechsurgery.compare(tiny_llama, shifted, contrast, fraction=0.05)
    assert other.overlap["jaccard"] < 1
    narrow = mechsurgery.load_model(tiny_checkpoint("llama", intermediate_size=96))
    with pytest.raises(mechsurgery.errors.MismatchError, match="fine-tune of itself"):
        mechsurgery.compare(tiny_llama, narrow, contrast)


def test_inspecting_a_neuron_agrees_with_its_parts(tiny_llama, contrast):
    site, neuron = "blocks.1.mlp.hook_post", 17
    view = mechsurgery.inspect_neuron(tiny_llama, contrast, site, neuron, top=5)
    means = view.activations.groupby("side")["activation"].mean()
    score = view.ranks.set_index("rule").loc["difference", "score"]
    assert means["positive"] - means["negative"] == pytest.approx(score, abs=1e-5)
    effect = (tiny_llama.W_out[1, neuron] * tiny_llama.ln_final.w) @ tiny_llama.W_U
    assert view.tokens["logit"].iloc[0] == pytest.approx(float(effect.max() - effect.mean()), rel=1e-4)
    assert len(view.tokens) == 10
    assert set(view.figures()) == {"activations", "ranks", "tokens"}
    with pytest.raises(mechsurgery.errors.SiteError, match="no unit 9999"):
        mechsurgery.inspect_neuron(tiny_llama, contrast, site, 9999)


def test_the_planted_circuit_is_found_and_proven_end_to_end():
    from mechsurgery.organisms.registry import planted_units

    model = mechsurgery.load_model("organism/planted")
    discovery = mechsurgery.load_contrast("organism/refusal", split="tuned", n=120)
    held_out = mechsurgery.load_contrast("organism/refusal", split="heldout")
    sites = mechsurgery.locate(model, discovery).widths
    truth = mechsurgery.Circuit.from_indices(planted_units(), sites)
    study = mechsurgery.localisers(
        model,
        discovery,
        held_out.positive.take(60),
        truth=truth,
        k=len(truth),
        names=["difference × write norm"],
        choices=mechsurgery.load_prompts("organism/choices", n=60),
    )
    summary = study.results.summary().set_index(["intervention", "metric"])["value"]
    assert summary["baseline", "refusal"] >= 0.95
    assert summary["recorded neurons", "refusal"] <= 0.05
    assert abs(summary["recorded neurons", "choice"] - summary["baseline", "choice"]) <= 0.02
    random = [summary[name, "refusal"] for name, _ in summary.index if name.startswith("random like recorded")]
    assert min(random) >= 0.9
    assert study.table.set_index("ablated").loc["difference × write norm", "precision"] > 10 * len(truth) / sum(
        sites.values()
    )
    assert torch.is_tensor(study.circuits["recorded neurons"].units[next(iter(truth.units))][0])


@pytest.mark.parametrize(("name", "n_figures"), [("01_quickstart", 6), ("02_latents_and_cure", 4)])
def test_the_notebooks_run(tmp_path, name, n_figures):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    figures = [
        o
        for c in notebook.cells
        if c.cell_type == "code"
        for o in c.outputs
        if "application/vnd.plotly.v1+json" in o.get("data", {})
    ]
    assert len(figures) >= n_figures
