"""Progress follows where it runs; what is missing is said in a sentence, before time is spent."""

import logging
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from mechsurgery import errors, evaluate, progress, surroundings
from mechsurgery.adapters.many import Workers
from mechsurgery.attribution import fit_probe, locate
from mechsurgery.cli import main
from mechsurgery.intervention import ablate
from mechsurgery.prompts import Prompt, PromptSet
from mechsurgery.surroundings import in_notebook, lab_extension_problem


class Terminal:
    """Standard error that somebody sees."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.fixture
def undecided(monkeypatch):
    monkeypatch.delenv(progress.VARIABLE)


@pytest.fixture
def notebook(monkeypatch):
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def test_bars_are_shown_where_somebody_looks(undecided, monkeypatch):
    assert not progress.is_shown(None)  # a test's output is captured
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress.is_shown(None)
    assert not progress.is_shown(False)
    monkeypatch.setenv(progress.VARIABLE, "0")
    assert not progress.is_shown(None)
    assert progress.is_shown(True)


def test_bars_are_shown_in_a_notebook_and_not_in_another_ipython(undecided, notebook, monkeypatch):
    assert in_notebook()
    assert progress.is_shown(None)
    for module in (SimpleNamespace(get_ipython=lambda: None), None):
        monkeypatch.setitem(sys.modules, "IPython", module)
        assert not progress.is_shown(None)


def test_every_verb_follows_the_one_default(undecided, monkeypatch, tiny_llama, contrast):
    from mechsurgery import locate

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    circuit = locate(tiny_llama, contrast, k=3)
    assert "reading activations" in screen.text
    evaluate(tiny_llama, contrast.positive.take(3), [ablate(circuit)])
    assert "responses" in screen.text
    screen.text = ""
    locate(tiny_llama, contrast, k=3, progress=False)
    assert screen.text == ""


def test_a_pipe_gets_no_bar(undecided, capsys, tiny_llama, contrast):
    evaluate(tiny_llama, contrast.positive.take(2), [])
    assert capsys.readouterr().err == ""


def served(monkeypatch, prefix, command="jupyter-lab"):
    process = SimpleNamespace(cmdline=lambda: [f"{prefix}/bin/python", f"{prefix}/bin/{command}"])
    monkeypatch.setenv("JPY_PARENT_PID", "12")
    monkeypatch.setattr("psutil.Process", lambda number: process)
    monkeypatch.setattr("jupyter_core.paths.jupyter_path", lambda *_: [])


def test_a_server_of_another_environment_without_the_extension_is_named(notebook, monkeypatch, tmp_path, caplog):
    served(monkeypatch, tmp_path)
    problem = lab_extension_problem("anywidget")
    assert f"pip install anywidget in the environment that runs the server ({tmp_path})" in problem
    surroundings.warn_of_missing_extensions.cache_clear()
    with caplog.at_level(logging.WARNING):
        surroundings.warn_of_missing_extensions()
        surroundings.warn_of_missing_extensions()
    assert sum("pip install plotly" in record.message for record in caplog.records) == 1
    (tmp_path / "share/jupyter/labextensions/anywidget").mkdir(parents=True)
    assert lab_extension_problem("anywidget") is None


def test_nothing_is_said_where_the_server_is_not_known(notebook, monkeypatch, tmp_path):
    served(monkeypatch, tmp_path, command="an-editor")
    assert lab_extension_problem("anywidget") is None
    monkeypatch.delenv("JPY_PARENT_PID")
    assert lab_extension_problem("anywidget") is None
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert lab_extension_problem("anywidget") is None


def test_packages_of_extras_explain_themselves(monkeypatch, tiny_llama, contrast):
    from mechsurgery import load_sae

    for module, extra, use in (
        ("sae_lens", "saes", lambda: load_sae("organism/sae-topk-2")),
        ("sklearn", "probes", lambda: fit_probe(tiny_llama, contrast, ["blocks.0.hook_resid_post"])),
        ("ray", "ray", lambda: locate(tiny_llama, contrast, workers=Workers(2))),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(errors.MissingExtraError, match=rf"pip install 'mechsurgery\[{extra}\]'") as raised:
            use()
        assert "\n" not in str(raised.value)


def test_pictures_that_cannot_be_written_name_the_extra(monkeypatch):
    export = import_module("mechsurgery.plots.export")
    failed = SimpleNamespace(returncode=1, stderr="ValueError: Image export requires the kaleido package\n")
    monkeypatch.setattr(export.subprocess, "run", lambda *a, **k: failed)
    reason = export.static_export_problem.__wrapped__()
    assert "requires the kaleido package" in reason
    assert "pip install 'mechsurgery[images]'" in reason


def test_every_module_can_be_imported_without_any_extra():
    extras = (
        "ray",
        "sae_lens",
        "sklearn",
        "kaleido",
        "httpx",
        "tenacity",
        "lm_eval",
        "anywidget",
        "ipywidgets",
        "jupyterlab",
    )
    code = f"""
import importlib, pkgutil, sys, warnings
warnings.simplefilter("ignore")
sys.modules |= dict.fromkeys({extras})
import mechsurgery
found = [m.name for m in pkgutil.walk_packages(mechsurgery.__path__, "mechsurgery.") if "__main__" not in m.name]
for name in found:
    importlib.import_module(name)
print(len(found) > 100)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_the_command_line_says_which_extra_it_needs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    done = CliRunner().invoke(main, ["organisms", "train-sae", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "mechsurgery[saes]" in done.output
    assert "Traceback" not in done.output


def test_choices_that_are_not_one_token_are_found_before_anything_runs(tiny_llama, monkeypatch):
    from mechsurgery.models import sites

    questions = tuple(Prompt(str(i), f"which {i}?", choices=("A", "not one token"), answer=0) for i in range(3))
    monkeypatch.setattr(sites, "fingerprint", lambda model: pytest.fail("something was measured"))
    with pytest.raises(errors.PromptError, match="1 of the 2 choices of prompt set 'mine'.*'not one token'"):
        evaluate(tiny_llama, {"asked": PromptSet("mine", questions)})


def test_a_missing_chat_template_is_found_before_anything_runs(tiny_checkpoint, contrast, caplog, monkeypatch):
    from mechsurgery import Generation, load_model

    model = load_model(tiny_checkpoint("llama", template=False))
    with pytest.raises(errors.InputError, match="no chat template"):
        evaluate(model, contrast.positive, generation=Generation(template="chat"))
    with caplog.at_level(logging.WARNING):
        evaluate(model, contrast.positive.take(1))
        assert not caplog.records
        monkeypatch.setattr(model.cfg, "model_name", "somebody/Llama-3-Instruct")
        evaluate(model, contrast.positive.take(1))
    assert "no chat template" in caplog.text
