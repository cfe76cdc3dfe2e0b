"""The planner: linear in layers and rows, from the configuration alone, with advice where something does not fit."""

import shutil
import time

import pytest
import torch
from click.testing import CliRunner

from mechsurgery import load_model
from mechsurgery.attribution import gates
from mechsurgery.cli import main
from mechsurgery.device_names import named_devices
from mechsurgery.errors import InputError, ModelNotFoundError
from mechsurgery.evaluation import trials
from mechsurgery.evaluation.miniature import n_parameters, read_config_of, shortened
from mechsurgery.evaluation.planning import Work, _free, _Machine, plan
from mechsurgery.evaluation.trials import Amount, Linear, amounts, layers_tried, rows_tried, timed, verbs
from mechsurgery.models import memory

SMALL = Work(n_prompts=6, tokens=8, new_tokens=2, steps=1)


def test_four_measurements_give_the_plane_through_them():
    def cost(layers, rows):
        return 3 + 0.5 * rows + (2 + 0.25 * rows) * layers

    line = Linear.through({(layers, rows): cost(layers, rows) for layers in (1, 3) for rows in (4, 8)})
    assert line.at(32, 64) == pytest.approx(cost(32, 64))
    assert line.rows_within(32, cost(32, 64) + 1e-6) == 64
    assert line.rows_within(32, cost(32, 0) - 1) == 0


@pytest.mark.parametrize("values", [(2.0, 1.0, 1.0, 1.0), (65.0, 20.0, 14.0, 34.0), (1.0, 1.0, 1.0, 9.0), (0, 4, 9, 2)])
def test_noise_makes_no_number_negative_and_leaves_the_largest_measurement_as_it_is(values):
    line = Linear.through(dict(zip([(2, 4), (2, 16), (6, 4), (6, 16)], values)))
    assert min(line.constant, line.per_row, line.layer, line.layer_row) >= 0
    assert line.at(6, 16) == pytest.approx(values[-1]), "the one that is nearest to what is planned"


def test_what_a_machine_does_besides_is_not_counted():
    """With one thread; a first run that is slow, as imports make it, is neither."""
    turns = iter(range(9))

    def run():
        time.sleep(0.1 if next(turns) else 0.3)

    seconds, _ = timed(run, torch.device("cpu"))
    assert seconds < 0.05
    assert next(turns) == 3


def test_long_runs_are_not_repeated(monkeypatch):
    monkeypatch.setattr(trials, "_ENOUGH", 0.01)
    turns = iter(range(9))
    timed(lambda: [next(turns), sum(range(10**6))], torch.device("cpu"))
    assert next(turns) == 1


def test_batches_that_are_tried_are_those_planned_or_as_large_as_is_quick(config_alone):
    config, cpu = read_config_of(config_alone), torch.device("cpu")
    assert rows_tried(config, Amount(16, 16, 1), 64, cpu) == (4, 16)
    assert rows_tried(config, Amount(64, 200, 1), 64, cpu) == (16, 64)
    config.hidden_size, config.intermediate_size = 2048, 8192
    assert rows_tried(config, Amount(64, 200, 1), 64, cpu) == (2, 8)


def test_layers_that_are_tried_are_those_of_a_deep_model():
    assert [layers_tried(n) for n in (1, 2, 3, 6, 30)] == [(1, 2), (1, 2), (1, 3), (2, 6), (2, 6)]


def test_prompts_are_divided_as_the_verbs_divide_them():
    found = amounts(Work(n_prompts=101, steps=7))
    assert found["discovery"] == Amount(51, 51, 2), "two sides"
    assert found["answers"] == Amount(64, 101, 1)
    assert found["gradients"] == Amount(64, 202, 1), "a bad and a good completion each"
    assert found["fine-tuning"] == Amount(16, 16, 7)


def test_time_is_that_of_full_batches_and_the_rest_as_often_as_it_is_to_be_done():
    machine = _Machine(2, torch.float32, False, 0.0, 0.0, 1e9)
    row = machine.row("any", Amount(64, 100, 3), Linear(1.0, 0.5, 0.0, 0.0), Linear(1.0, 0.0, 0.0, 0.0), held=0.0)
    assert row["seconds"] == 3 * ((1 + 32) + (1 + 18))
    assert (row["rows"], row["batch"]) == (300, 64)


@pytest.mark.parametrize("again", [False, True])
def test_gradients_are_tried_with_blocks_run_again_where_the_whole_model_does_so(again, tiny_llama_dir, monkeypatch):
    """The graph of a few layers and rows would be kept where that of the whole model on its batch is not."""
    model, calls, n_layers, work = load_model(tiny_llama_dir), [], 40, Work(n_prompts=16, tokens=8)
    checkpoint = gates.checkpoint
    monkeypatch.setattr(gates, "checkpoint", lambda *args, **how: calls.append(1) or checkpoint(*args, **how))
    whole = 32 * 8 * n_layers * (8 * model.cfg.d_model + 4 * model.cfg.d_mlp)
    monkeypatch.setattr(gates, "HELD", whole - 1 if again else whole)
    verbs(work, n_layers)["gradients"](model, 4)()
    assert bool(calls) == again


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
    def one(run, device, **how):
        run()
        return 1.0, 1.0

    monkeypatch.setattr(trials, "timed", one)
    monkeypatch.setattr(memory, "available", lambda device: 0)
    table = plan(config_alone, work=SMALL, device="cpu")
    assert not table["fits"].any()
    assert table["advice"].str.contains("GiB are missing.*bfloat16").all()


def test_several_devices_have_room_together():
    """Each at most what is named with it; where one does not say, nothing is known."""
    free = {"lazy:0": 5 * memory.GIB, "lazy:1": 3 * memory.GIB, "lazy:2": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available", lambda device: free[str(device)])
        assert _free(named_devices("lazy:0,lazy:1")) == 8 * memory.GIB
        assert _free(named_devices("lazy:0=1GiB,lazy:1=9GiB")) == 4 * memory.GIB
        assert _free(named_devices("lazy:0,lazy:2")) is None


def test_a_gpu_that_is_too_small_is_no_end():
    machine = _Machine(2, torch.bfloat16, True, 0.0, 0.0, 1e9)
    row = machine.row("any", Amount(4, 4, 1), Linear(1.0, 0.0, 0.0, 0.0), Linear(3e9, 0.0, 0.0, 0.0), held=0.0)
    assert not row["fits"]
    assert row["advice"].startswith("1.9 GiB are missing: take devices")
    assert "device='auto'" in row["advice"]


def test_layers_that_alternate_are_cut_with_their_kinds():
    from transformers import Gemma3TextConfig

    config = Gemma3TextConfig(num_hidden_layers=8)
    assert len(shortened(config, 3).layer_types) == 3
    assert len(config.layer_types) == 8
    assert shortened(config, 9).layer_types[-1] == config.layer_types[-1]


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
