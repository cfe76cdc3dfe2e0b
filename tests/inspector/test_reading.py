"""What `mechsurgery inspect` takes for its circuit and its contrast, and what it does with them."""

import time

import pytest
import torch
from click.testing import CliRunner

from mechsurgery import Circuit, UnitScores, errors, load_contrast
from mechsurgery.cli import main
from mechsurgery.inspector import app, catalogue
from mechsurgery.inspector.reading import contrast_of, read_circuit

SITE = "blocks.1.mlp.hook_post"


@pytest.fixture
def circuit():
    widths = {f"blocks.{layer}.mlp.hook_post": 512 for layer in range(6)}
    return Circuit.from_indices({SITE: [3, 7]}, widths, name="two", contrast="organism/refusal")


def test_a_circuit_is_read_from_its_file_or_a_study_s_folder(circuit, tmp_path):
    saved = circuit.save(tmp_path / "study" / "circuits" / "two")
    for path in (saved, saved.with_suffix(""), tmp_path / "study", tmp_path / "study" / "circuits"):
        assert read_circuit(path).members() == circuit.members()
    circuit.named("other").save(tmp_path / "study" / "circuits" / "other")
    with pytest.raises(errors.InputError, match=r"other\.safetensors.*two\.safetensors"):
        read_circuit(tmp_path / "study")
    with pytest.raises(errors.InputError, match="none"):
        read_circuit(tmp_path)
    with pytest.raises(errors.ModelNotFoundError, match="no file"):
        read_circuit(tmp_path / "nothing")


def test_of_scores_the_top_thousandth_is_taken(tmp_path):
    values = torch.zeros(3000)
    values[[5, 17, 2999]] = torch.tensor([3.0, -4.0, 5.0])
    saved = UnitScores({SITE: values}, "difference").save(tmp_path / "scores")
    assert read_circuit(saved).members() == {(SITE, 5), (SITE, 17), (SITE, 2999)}


def test_the_contrast_is_the_one_it_was_located_with(circuit):
    assert contrast_of(circuit).digest == load_contrast("organism/refusal").digest
    nameless = Circuit.from_indices({SITE: [1]}, circuit.widths, contrast="files")
    with pytest.raises(errors.PromptError, match="'files'.*--contrast NAME"):
        contrast_of(nameless)


def inspect(*words):
    return CliRunner().invoke(main, ["inspect", "organism/instruct", *map(str, words)])


@pytest.fixture
def quick(monkeypatch):
    """Catalogues as the command makes them, without measuring effects; what they were made with."""
    made = []

    class Quick(catalogue.Catalogue):
        def __init__(self, model, contrast, circuit, **options):
            made.append({"contrast": contrast, "circuit": circuit, **options})
            small = {"effects": False, "at_most": 4, "responses": 0}
            super().__init__(model, contrast.take(8), circuit, **options, **small)

    monkeypatch.setattr(catalogue, "Catalogue", Quick)
    return made


def test_the_command_says_the_address_and_opens_the_browser_unless_told_not_to(circuit, tmp_path, monkeypatch, quick):
    opened, served = [], []

    def serve(made, *, port, on_ready):
        served.append(port)
        on_ready("http://127.0.0.1:7/?token=t")

    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(app, "serve", serve)
    saved = circuit.save(tmp_path / "two")
    done = inspect(saved, "--base", "organism/base", "--port", 7)
    assert done.exit_code == 0, done.output
    assert done.output == "explore it at http://127.0.0.1:7/?token=t\nCtrl-C ends it\nended\n"
    until = time.monotonic() + 5
    while not opened and time.monotonic() < until:
        time.sleep(0.01)
    assert (opened, served) == (["http://127.0.0.1:7/?token=t"], [7])
    assert quick[0]["base"].cfg.model_name == "organism/base"
    assert quick[0]["contrast"].name == "organism/refusal"
    for side in ("positive", "negative"):
        (tmp_path / f"{side}.csv").write_text(f"text\nmake a {side} thing\nbuild a {side} one\n")
    files = [word for side in ("positive", "negative") for word in (f"--{side}", tmp_path / f"{side}.csv")]
    assert inspect(saved, *files, "--no-browser").exit_code == 0
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert inspect(saved, *files).exit_code == 0
    assert len(opened) == 1
    assert quick[1]["contrast"].positive.texts == ["make a positive thing", "build a positive one"]


def test_the_command_saves_an_offline_page_instead(circuit, tmp_path, quick):
    done = inspect(circuit.save(tmp_path / "two"), "--save", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    assert done.output == f"saved to {tmp_path / 'page.html'}\n"
    assert "L1.3" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_wrong_words_are_answered_in_one_line(circuit, tmp_path):
    saved = circuit.save(tmp_path / "two")
    narrow = Circuit.from_indices({SITE: [1]}, {SITE: 8}, contrast="organism/refusal").save(tmp_path / "narrow")
    for words, why in (
        ([tmp_path / "nothing"], "no file"),
        ([saved, "--contrast", "nothing"], "no contrast"),
        ([saved, "--positive", saved], "both --positive FILE and --negative FILE"),
        ([narrow], "locate the circuit again"),
    ):
        found = inspect(*words)
        assert found.exit_code == 1
        assert found.output.startswith("Error: ")
        assert why in found.output
        assert found.output.count("\n") == 1
