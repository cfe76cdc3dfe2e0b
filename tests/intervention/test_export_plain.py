"""An exported directory under plain transformers gives the logits of the running intervention, in every family."""

import hashlib
import json
import re

import pytest
import torch
import yaml
from click.testing import CliRunner
from support.changes import IDS, every, random

from mechsurgery.cli import main
from mechsurgery.deltas import Dense, WeightDelta
from mechsurgery.directions import Direction
from mechsurgery.errors import InputError
from mechsurgery.intervention import ablate, applied, export, mean_ablate, project_out, scale, shift_weights, steer
from mechsurgery.models import load_model, sites, streaming
from mechsurgery.models.streaming import Checkpoint

FAMILIES = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "neox"]
#: Where numbers can be added: nowhere, after attention alone, after attention and the MLP.
ADDED = {"llama": 2, "llama3": 2, "mistral": 0, "qwen2": 0, "qwen3": 1, "gemma2": 0, "gemma3": 0, "gpt2": 2, "neox": 2}
#: Settings of config.json that a change may have switched.
SWITCHED = ("attention_bias", "mlp_bias", "tie_word_embeddings")


def embeddings_of(model):
    """A difference of input and output embeddings, each its own, and of one attention weight."""
    names = ["embed.W_E", "unembed.W_U", "blocks.1.attn.W_Q"]
    return WeightDelta(
        {n: Dense(0.3 * random(*sites.parameter(model, n).shape, seed=len(n))) for n in names}, "trained"
    )


def runs(model):
    d, circuit = model.cfg.d_model, every(3, model)
    means = {site: 0.3 * random(width, seed=i) for i, (site, width) in enumerate(circuit.widths.items())}
    steered = {kind: Direction({f"blocks.1.{kind}": random(d)}) for kind in ("hook_attn_out", "hook_resid_post")}
    neurons, out = scale(circuit, 0.5), project_out(model, random(d)).at(0.8)
    found = {
        "neurons": neurons,
        "projection": out,
        "attention": steer(steered["hook_attn_out"]).at(0.5),
        "after a block": steer(steered["hook_resid_post"]).at(-0.5),
        "mean": mean_ablate(circuit, means).at(0.7),
        "embeddings": shift_weights(embeddings_of(model)).at(0.5),
    }
    parts = ["neurons", "projection", "attention", "mean", "embeddings"]
    found["all"] = sum((found[name] for name in parts), start=found["after a block"])
    return found


def is_refused(family, kind):
    """Why a family has no place for an intervention, or None."""
    if family.startswith("gemma") and kind in ("projection", "attention", "after a block", "all"):
        return "normalises what attention and MLP write"
    places = {"attention": 1, "after a block": 2, "mean": 2, "all": 2}
    return "no setting that adds one" if ADDED[family] < places.get(kind, 0) else None


@torch.no_grad()
def plainly(folder):
    """Logits under transformers alone; whatever it misses or does not know would be an error."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values())
    assert len(AutoTokenizer.from_pretrained(folder)) > 300
    return model(IDS, use_cache=False).logits


@torch.no_grad()
def live(model, run):
    with applied(model, run):
        return model(IDS, attention_mask=torch.ones_like(IDS))


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_gives_the_logits_of_the_running_intervention(family, tiny_checkpoint, tmp_path):
    changes = {"sliding_window": None} if family == "mistral" else {}
    source = tiny_checkpoint(family, max_shard_size="60KB", **changes)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    model = load_model(source)
    unchanged = model(IDS, attention_mask=torch.ones_like(IDS))
    for kind, run in runs(model).items():
        if reason := is_refused(family, kind):
            with pytest.raises(InputError, match=reason):
                export(source, run, tmp_path / kind)
            assert not (tmp_path / kind).exists()
            continue
        expected = live(model, run)
        assert (expected - unchanged).abs().max() > 1e-3
        found = plainly(export(source, run, tmp_path / kind))
        torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max(), rtol=0, msg=f"{family} {kind}")
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert len(list((tmp_path / "neurons").glob("*.safetensors"))) > 2
    assert not list(tmp_path.glob(".*"))


def test_a_switch_gives_all_its_biases_and_nothing_else(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("llama")
    model = load_model(source)
    out = export(source, runs(model)["after a block"], tmp_path / "out")
    old, new = Checkpoint(source), Checkpoint(out)
    added = set(new.facts) - set(old.facts)
    assert added == {f"model.layers.{i}.mlp.{x}_proj.bias" for i in range(4) for x in ("gate", "up", "down")}
    assert {name for name in added if new(name).any()} == {"model.layers.1.mlp.down_proj.bias"}
    assert all(torch.equal(old(name), new(name)) for name in old.facts)
    configs = [json.loads((at / "config.json").read_text()) for at in (source, out)]
    assert configs[1] == configs[0] | {"mlp_bias": True}
    # Loaded again, it can be changed again.
    again = load_model(out)
    run = runs(again)["after a block"]
    found = plainly(export(out, run, tmp_path / "again"))
    torch.testing.assert_close(found, live(again, run), atol=1e-4, rtol=1e-4)


def test_tied_embeddings_are_untied_where_only_one_changes(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("llama3")
    model = load_model(source)
    out = Checkpoint(export(source, runs(model)["projection"], tmp_path / "out"))
    assert torch.equal(out("lm_head.weight"), Checkpoint(source)("model.embed_tokens.weight"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    kept = Checkpoint(export(source, runs(model)["neurons"], tmp_path / "kept"))
    assert "lm_head.weight" not in kept.facts


def test_a_large_embedding_is_never_whole_in_memory(tiny_checkpoint, tmp_path, monkeypatch):
    source = tiny_checkpoint("llama3", dtype="bfloat16", vocab_size=6000)
    model = load_model(source, dtype="bfloat16")
    run = runs(model)["projection"]
    monkeypatch.setattr(streaming, "_BLOCK", 1 << 12)
    size, read, sizes = Checkpoint(source)("model.embed_tokens.weight").nbytes, Checkpoint.__call__, []

    def noted(self, name, rows=None):
        tensor = read(self, name, rows)
        sizes.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(Checkpoint, "__call__", noted)
    export(source, run, tmp_path / "out")
    monkeypatch.undo()
    assert 2 * size < sum(sizes)  # the embeddings, and their copy
    assert max(sizes) < size / 10
    expected = live(load_model(source, dtype="float32"), run)
    torch.testing.assert_close(plainly(tmp_path / "out"), expected, atol=0.1 * expected.abs().max(), rtol=0)


def test_the_card_says_what_was_done_and_strangers_names_do_nothing_in_it(tiny_checkpoint, tmp_path):
    import shutil

    source = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "a | b <b>")
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    model = load_model(source)
    circuit = ablate(every(3, model), name="x | y [z](javascript:1) <script>").at(0.5)
    circuit.info["fingerprint"] = sites.fingerprint(model)
    circuit.info["contrast"] = "\n# Big\n\u202e"
    out = export(source, circuit, tmp_path / "out")
    text = (out / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == {"library_name": "transformers", "tags": ["mechsurgery", "edited-model"], "license": "apache-2.0"}
    rows = dict(re.findall(r"^\| *(.*?) *\| (.*?) *\|$", text, re.M))
    assert rows["Strength"] == rows["Multiplier of the units"] == "0.5"
    assert rows["Digest of the edit"] == circuit.digest
    assert rows["Made on or with: fingerprint"] == sites.fingerprint(model)
    sha = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert sha[:16] in rows["SHA-256 of its files"]
    assert "not the base model" in text
    assert "<script>" not in text
    assert "\u202e" not in text
    assert re.findall("^# .*", text, re.M) == ["# An edited model"]
    assert str(tmp_path) not in text
    assert (out / "README.source.md").read_text().endswith("# Mine\n")
    facts = json.loads((out / "mechsurgery.json").read_text())
    assert facts["edit"]["strength"] == 0.5
    assert facts["tensors changed"] == [f"model.layers.{i}.mlp.down_proj.weight" for i in range(4)]
    assert str(tmp_path) not in json.dumps(facts)


def test_the_command_line_exports_what_was_saved(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("llama")
    model = load_model(source)
    circuit, vector = every(3, model), Direction({"blocks.1.hook_resid_post": random(model.cfg.d_model)}, "caa")
    delta = embeddings_of(model)
    circuit.save(tmp_path / "c")
    vector.save(tmp_path / "v")
    delta.save(tmp_path / "d")

    def run(*arguments):
        return CliRunner().invoke(main, ["export", str(source), *map(str, arguments)])

    files = ("--circuit", tmp_path / "c", "--m", 0.5, "--steer", tmp_path / "v", "--delta", tmp_path / "d")
    done = run(tmp_path / "sum", *files, "--strength", "-0.5")
    assert done.exit_code == 0, done.output
    expected = live(model, scale(circuit, 0.5) + steer(vector).at(-0.5) + shift_weights(delta).at(-0.5))
    torch.testing.assert_close(plainly(tmp_path / "sum"), expected, atol=1e-4, rtol=1e-4)
    done = run(tmp_path / "out", "--project-out", tmp_path / "v")
    assert done.exit_code == 0, done.output
    out = project_out(model, vector.at("blocks.1.hook_resid_post"))
    torch.testing.assert_close(plainly(tmp_path / "out"), live(model, out), atol=1e-4, rtol=1e-4)
    done = run(tmp_path / "lora", "--circuit", tmp_path / "c", "--adapter")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "lora" / "adapter_model.safetensors").is_file()
    for arguments, reason in (
        (["x"], "--circuit, --steer, --project-out or --delta"),
        (["x", "--m", 0.5], "give its file with --circuit"),
        (["x", "--delta", tmp_path / "d", "--adapter"], "embed.W_E"),
        (["sum", "--circuit", tmp_path / "c"], "exists"),
    ):
        done = run(tmp_path / arguments[0], *arguments[1:])
        assert done.exit_code == 1
        assert re.search(reason, done.output)
        assert not (tmp_path / "x").exists()
