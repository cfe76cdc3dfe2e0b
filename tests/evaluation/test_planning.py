"""The planner: linear in layers and rows, from the configuration alone, with advice where something does not fit."""

import shutil

import pytest
from click.testing import CliRunner

from mechsurgery import load_model
from mechsurgery.cli import main
from mechsurgery.errors import InputError, ModelNotFoundError
from mechsurgery.evaluation import planning
from mechsurgery.evaluation.miniature import n_parameters, read_config_of, shortened
from mechsurgery.evaluation.planning import Linear, Work, plan
from mechsurgery.models import memory

SMALL = Work(n_prompts=6, tokens=8, new_tokens=2, steps=1)


def test_four_measurements_give_the_plane_through_them():
    def cost(layers, rows):
        return 3 + 0.5 * rows + (2 + 0.25 * rows) * layers

    line = Linear.through({(layers, rows): cost(layers, rows) for layers in (1, 3) for rows in (4, 8)})
    assert line.at(32, 64) == pytest.approx(cost(32, 64))
    assert line.rows_within(32, cost(32, 64) + 1e-6) == 64
    assert line.rows_within(32, cost(32, 0) - 1) == 0
    falling = Linear.through({(1, 4): 2.0, (1, 8): 1.0, (3, 4): 1.0, (3, 8): 1.0})
    assert min(falling.constant, falling.per_row, falling.layer, falling.layer_row) >= 0


@pytest.fixture(scope="module")
def config_alone(tiny_llama_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    shutil.copy(tiny_llama_dir / "config.json", folder)
    return folder


def test_a_plan_needs_the_configuration_alone_and_counts_every_weight_once(config_alone, tiny_llama_dir):
    table = plan(config_alone, work=SMALL, device="cpu")
    assert list(table["verb"]) == ["loading", "discovery", "answers", "gradients", "fine-tuning"]
    assert (table["seconds"] > 0).all()
    assert table["fits"].all()
    source = load_model(tiny_llama_dir)
    config = read_config_of(config_alone)
    assert table.attrs["layers"] == source.cfg.n_layers
    import transformers

    whole = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    assert table.attrs["parameters"] == n_parameters(config) == whole.num_parameters()


def test_what_does_not_fit_says_how_much_is_missing(config_alone, monkeypatch):
    monkeypatch.setattr(planning, "_timed", lambda run, device: (1.0, 1.0))
    monkeypatch.setattr(memory, "available", lambda device: 1)
    table = plan(config_alone, work=SMALL, device="cpu")
    assert not table["fits"].any()
    assert table["advice"].str.contains("GiB are missing.*bfloat16").all()


def test_layers_that_alternate_are_cut_with_their_kinds():
    from transformers import Gemma3TextConfig

    config = Gemma3TextConfig(num_hidden_layers=8)
    assert len(shortened(config, 3).layer_types) == 3
    assert len(config.layer_types) == 8


def test_a_plan_refuses_what_it_cannot_plan(config_alone, tmp_path):
    for work in ({"tokens": 0}, {"n_prompts": -1}):
        with pytest.raises(InputError, match="at least 1"):
            Work(**work)
    with pytest.raises(InputError, match="limit"):
        plan(config_alone, limit=0)
    with pytest.raises(InputError, match="dtype"):
        plan(config_alone, dtype="int8")
    with pytest.raises(ModelNotFoundError):
        plan(tmp_path / "none")


def test_the_command_prints_the_plan(config_alone, tmp_path):
    options = ["--prompts", "4", "--tokens", "8", "--new-tokens", "2", "--steps", "1", "--device", "cpu"]
    found = CliRunner().invoke(main, ["plan", str(config_alone), *options, "--out", str(tmp_path / "plan.csv")])
    assert found.exit_code == 0, found.output
    assert "million weights in" in found.output
    assert (tmp_path / "plan.csv").read_text().startswith("verb,rows,batch")
