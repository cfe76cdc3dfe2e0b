"""The package's surface: public names, the command line, base against instruct, one unit."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import mechsurgery
from mechsurgery import errors
from mechsurgery.cli import main
from mechsurgery.grading.world import REQUEST
from mechsurgery.organisms.registry import ORGANISMS, planted_units
from mechsurgery.studies.ablations import TRUTH, localisers

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "plotly", "pandas")


def test_every_public_name_can_be_imported_and_is_listed():
    assert len(mechsurgery.__all__) <= 50
    for name in mechsurgery.__all__:
        assert getattr(mechsurgery, name) is not None
    assert set(mechsurgery.__all__) <= set(dir(mechsurgery))
    with pytest.raises(AttributeError, match="nothing"):
        _ = mechsurgery.nothing


@pytest.mark.parametrize(
    "program", ["import mechsurgery; dir(mechsurgery)", "from mechsurgery.cli import main; main()"]
)
def test_importing_and_help_load_nothing_heavy(program):
    code = f"""
import sys
sys.argv = ["mechsurgery", "--help"]
try:
    {program}
except SystemExit as end:
    assert not end.code
print([name for name in {HEAVY} if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")
    if "main" in program:
        assert all(command in out for command in ("demo", "locate", "evaluate", "compare", "study", "organisms"))


def test_a_type_checker_sees_signatures_through_the_lazy_names(tmp_path):
    pytest.importorskip("mypy")
    file = tmp_path / "uses.py"
    file.write_text(
        "import mechsurgery as ms\nresults = ms.evaluate(None, ms.load_prompts('organism/dangerous'), m=0)\n"
        "reveal_type(ms.Results.load('x').summary)\nreveal_type(ms.ablate)\n",
        encoding="utf-8",
    )
    options = [
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--follow-imports",
        "silent",
        "--cache-dir",
        str(tmp_path),
    ]
    run = subprocess.run([sys.executable, "-m", "mypy", *options, str(file)], capture_output=True, text=True, cwd=ROOT)
    assert 'Unexpected keyword argument "m" for "evaluate"' in run.stdout
    assert "def (metrics: typing.Sequence[str] | None" in run.stdout
    assert "-> mechsurgery.intervention.intervention.Intervention" in run.stdout


def test_locate_evaluate_and_compare_from_a_shell(tiny_llama_dir, tmp_path, contrast, caplog):
    for side in (contrast.positive, contrast.negative):
        side.to_frame()[["text"]].to_csv(tmp_path / f"{side.name}.csv", index=False)
    (tmp_path / "negative.txt").write_text("\n\n".join(contrast.negative.texts), encoding="utf-8")
    files = ["--positive", str(tmp_path / "positive.csv"), "--negative", str(tmp_path / "negative.txt")]
    run = CliRunner().invoke
    circuit = tmp_path / "c.safetensors"
    found = run(
        main, ["locate", str(tiny_llama_dir), *files, "-k", "5", "--rule", "effect_size", "--out", str(circuit)]
    )
    assert found.exit_code == 0, found.output
    own = mechsurgery.Circuit.load(circuit)
    assert len(own) == 5
    other = tmp_path / "bridge.safetensors"
    caplog.set_level("INFO", "mechsurgery")
    found = run(
        main,
        ["locate", str(tiny_llama_dir), *files, "-k", "5", "--rule", "effect_size", "--bridge", "--out", str(other)],
    )
    assert found.exit_code == 0, found.output
    assert "as a TransformerBridge" in caplog.text
    assert mechsurgery.Circuit.load(other).members() == own.members()
    options = ["--circuit", str(circuit), "--prompts", str(tmp_path / "positive.csv"), "--m", "0", "--m", "2"]
    size = ["--max-new-tokens", "4", "-n", "6", "--out", str(tmp_path / "run")]
    done = run(main, ["evaluate", str(tiny_llama_dir), *options, *size])
    assert done.exit_code == 0, done.output
    results = mechsurgery.Results.load(tmp_path / "run")
    assert set(results.table["m"]) == {0.0, 1.0, 2.0}
    assert results.table["control_of"].nunique() == 1
    both = run(main, ["compare", *[str(tiny_llama_dir)] * 2, *files, "--out", str(tmp_path / "figures")])
    assert both.exit_code == 1
    assert "give two names" in both.output
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
    view = mechsurgery.inspect(tiny_llama, "L1.17", contrast)
    assert view.name == "L1.17"
    means = view.activations.groupby("side")["activation"].mean()
    score = view.ranks.set_index("rule").loc["difference", "score"]
    assert means["positive"] - means["negative"] == pytest.approx(score, abs=1e-5)
    effect = (tiny_llama.W_out[1, neuron] * tiny_llama.ln_final.w) @ tiny_llama.W_U
    assert view.writes["value"].iloc[0] == pytest.approx(float(effect.max() - effect.mean()), rel=1e-4)
    assert len(view.writes) == 20
    assert set(view.figures()) == {"activations", "ranks", "tokens", "effects"}
    for same in ((1, neuron), (site, neuron)):
        assert mechsurgery.inspect(tiny_llama, same, contrast).ranks.equals(view.ranks)
    with pytest.raises(errors.SiteError, match="no unit 9999"):
        mechsurgery.inspect(tiny_llama, (1, 9999), contrast)
    for wrong in ("neuron 17", 17):
        with pytest.raises(errors.InputError, match=r"L5\.446"):
            mechsurgery.inspect(tiny_llama, wrong, contrast)


def test_the_planted_circuit_is_found_and_proven_end_to_end():
    model = mechsurgery.load_model("organism/planted")
    discovery = mechsurgery.load_contrast("organism/refusal", split="tuned", n=120)
    held_out = mechsurgery.load_contrast("organism/refusal", split="heldout")
    widths = mechsurgery.locate(model, discovery).widths
    truth = mechsurgery.Circuit.from_indices(planted_units(), widths)
    rule = "difference × write norm"
    study = localisers(
        model,
        discovery,
        {"dangerous": held_out.positive.take(60), "choices": mechsurgery.load_prompts("organism/choices", n=60)},
        REQUEST,
        truth=truth,
        k=len(truth),
        names=[rule],
        controlled=[TRUTH],
        controls=5,
        n_control_prompts=16,
        options={"generation": mechsurgery.Generation(max_new_tokens=28)},
    )
    summary = study.results.summary(["outcome", "choice"])
    value = summary.set_index(["prompt_set", "label", "intervention"])["value"]
    assert value["dangerous", "refuses", "baseline"] >= 0.95
    assert value["dangerous", "complies", TRUTH] >= 0.95
    assert abs(value["choices", "", TRUTH] - value["choices", "", "baseline"]) <= 0.02
    random = summary[(summary["control_of"] == TRUTH) & (summary["label"] == "refuses")]["value"]
    assert len(random) == 5
    assert random.min() >= 0.9
    row = study.table.set_index("ablated").loc[rule]
    assert row["precision"] > 10 * len(truth) / sum(widths.values())
    assert row["k"] == len(study.circuits[rule]) == len(truth)
