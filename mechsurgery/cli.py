"""The command line: the same functions, from a shell. Heavy imports happen inside each command."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from . import __version__

_RULES = ["difference", "effect_size", "welch_t", "auroc", "difference_write_norm", "difference_alignment"]


class _Friendly(click.Group):
    """Shows mechsurgery's own errors as one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from .errors import MechsurgeryError

        try:
            return super().invoke(ctx)
        except MechsurgeryError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Friendly, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="Log what is done.")
def main(verbose: bool) -> None:
    """Locate the few units of a language model that carry a behaviour, prove it, operate on just those."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures/demo"), show_default=True)
@click.option("--prompts", "n_prompts", default=200, show_default=True, help="Held-out requests per side.")
@click.option("--seed", default=0, show_default=True)
def demo(out: Path, n_prompts: int, seed: int) -> None:
    """Locate, prove and plot a refusal circuit on the built-in organisms."""
    from .studies.demo import demo as run

    report = run(out, n_prompts=n_prompts, seed=seed, progress=sys.stderr.isatty())
    click.echo(report.text())


@main.command()
@click.argument("model")
@click.option("--contrast", default=None, help="A registered contrast, e.g. organism/refusal or jbb.")
@click.option("--positive", type=click.Path(path_type=Path), help="File of prompts that show the behaviour.")
@click.option("--negative", type=click.Path(path_type=Path), help="File of prompts that do not.")
@click.option("--column", default="text", show_default=True, help="Text column of the two files.")
@click.option("--rule", type=click.Choice(_RULES), default="difference", show_default=True)
@click.option("--fraction", type=float, default=None, help="Share of all MLP neurons [default: 0.001].")
@click.option("-k", type=int, default=None, help="Number of neurons, instead of a fraction.")
@click.option("--by", type=click.Choice(["abs", "positive", "negative"]), default="abs", show_default=True)
@click.option("--per", type=click.Choice(["model", "layer"]), default="model", show_default=True)
@click.option("--skip-layer", "skip_layers", type=int, multiple=True, help="Leave a layer out; repeatable.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--device", default=None)
@click.option("--revision", default=None)
@click.option("--out", type=click.Path(path_type=Path), default=Path("circuit.safetensors"), show_default=True)
def locate(model: str, out: Path, **options: Any) -> None:
    """Find the MLP neurons of MODEL that most separate two sets of prompts."""
    from .attribution import locate as run

    contrast = _contrast(options)
    loaded = _load(model, options)
    budget = {key: options[key] for key in ("fraction", "k") if options[key] is not None}
    keep = {key: options[key] for key in ("rule", "by", "per", "skip_layers")}
    circuit = run(loaded, contrast, **keep, **budget, progress=sys.stderr.isatty())
    click.echo(repr(circuit))
    click.echo(circuit.to_frame().head(20).to_string(index=False))
    click.echo(f"saved to {circuit.save(out)}")


@main.command()
@click.argument("model")
@click.option("--circuit", "circuit_path", type=click.Path(path_type=Path), required=True)
@click.option("--prompts", default="organism/dangerous", show_default=True, help="Registered set, file or hub id.")
@click.option("--column", default=None, help="Text column where --prompts is a file.")
@click.option("--choices", default=None, help="Multiple-choice set, e.g. organism/choices.")
@click.option("--m", "multipliers", type=float, multiple=True, default=(0.0,), show_default=True)
@click.option("--random", "n_random", default=5, show_default=True, help="Matched random circuits.")
@click.option("-n", type=int, default=200, show_default=True, help="Prompts (all where there are fewer).")
@click.option("--max-new-tokens", default=48, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--device", default=None)
@click.option("--revision", default=None)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
def evaluate(model: str, circuit_path: Path, out: Path, **options: Any) -> None:
    """Scale a circuit of MODEL by m, beside the baseline and matched random circuits."""
    from .evaluation import pool_random, prove
    from .prompts import load_prompts
    from .units import Circuit

    circuit = Circuit.load(circuit_path)
    text = {"text": options["column"]} if options["column"] else {}
    prompts = load_prompts(options["prompts"], **text).take(options["n"], seed=options["seed"])
    choices = options["choices"]
    if choices is not None:
        choices = load_prompts(choices).take(options["n"], seed=options["seed"])
    results = prove(
        _load(model, options),
        circuit,
        prompts,
        m=options["multipliers"],
        n_random=options["n_random"],
        seed=options["seed"],
        choices=choices,
        max_new_tokens=options["max_new_tokens"],
        progress=sys.stderr.isatty(),
    )
    click.echo(pool_random(results.summary()).to_string(index=False, float_format="{:.3f}".format))
    click.echo(f"saved to {results.save(out)}")


@main.command()
@click.argument("base")
@click.argument("instruct")
@click.option("--contrast", default=None, help="A registered contrast, e.g. organism/refusal or jbb.")
@click.option("--positive", type=click.Path(path_type=Path))
@click.option("--negative", type=click.Path(path_type=Path))
@click.option("--column", default="text", show_default=True)
@click.option("--rule", type=click.Choice(_RULES), default="difference", show_default=True)
@click.option("--fraction", type=float, default=0.001, show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--device", default=None)
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures/compare"), show_default=True)
def compare(base: str, instruct: str, out: Path, **options: Any) -> None:
    """Locate with the same prompts on BASE and INSTRUCT, and compare the circuits."""
    from .plots import export_all
    from .studies.compare import compare as run
    from .studies.figures import comparison_figures

    contrast = _contrast(options)
    names = (base, instruct)
    models = [_load(name, options) for name in names]
    result = run(*models, contrast, rule=options["rule"], fraction=options["fraction"], names=names)
    click.echo(result.table.to_string(index=False, float_format="{:.4g}".format))
    click.echo(export_all(comparison_figures(result), out))


@main.group()
def study() -> None:
    """A whole paper on your model: every table and figure, with controls, and a report."""


@study.command("cna")
@click.option("--instruct", required=True, multiple=True, help="Instruct model; repeat for several pairs.")
@click.option("--base", multiple=True, help="Base model of each instruct model, in the same order.")
@click.option("--contrast", default="organism/refusal", show_default=True, help="A registered contrast, e.g. jbb.")
@click.option("--positive", type=click.Path(path_type=Path), help="File of prompts that show the behaviour.")
@click.option("--negative", type=click.Path(path_type=Path), help="File of prompts that do not.")
@click.option("--column", default="text", show_default=True, help="Text column of the two files.")
@click.option("--behaviour", default="refusal", show_default=True, help="What it is called in the report.")
@click.option("--shown-by", default=None, help="Regular expression that a response showing the behaviour matches.")
@click.option("--mmlu", type=click.Path(path_type=Path), default=None, help="MMLU CSV, or 'cais/mmlu' for the hub.")
@click.option("--xstest", type=click.Path(path_type=Path), default=None, help="XSTest CSV: over-refusal.")
@click.option("--mode", "modes", type=click.Choice(["corrected", "as published"]), multiple=True)
@click.option("--fraction", type=float, default=0.001, show_default=True, help="Share of all MLP neurons.")
@click.option("-n", "n_prompts", default=100, show_default=True, help="Evaluation prompts that show the behaviour.")
@click.option("--only-showing", is_flag=True, help="Evaluate only on prompts where the model shows the behaviour.")
@click.option("--no-sensitivity", is_flag=True, help="Leave out what the result depends on.")
@click.option("--max-new-tokens", default=32, show_default=True)
@click.option("--template", type=click.Choice(["auto", "chat", "plain", "raw"]), default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--device", default=None)
@click.option("--max-rows", default=256, show_default=True, help="Rows of one batch.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures/cna"), show_default=True)
def study_cna(instruct: tuple[str, ...], base: tuple[str, ...], out: Path, **options: Any) -> None:
    """Contrastive neuron attribution: locate, ablate, compare with steering and with the base model.

    Run again with the same --out, an interrupted study continues.
    """
    from .studies.cna.command import run

    click.echo(run(list(instruct), list(base), out, options, progress=sys.stderr.isatty()))


@study.command("latents")
@click.option("--case", "cases", multiple=True, help="organism/sycophant, organism/misinformed; default: both.")
@click.option("--sae", default="organism/sae-topk-4", show_default=True, help="Organism SAE, directory or release.")
@click.option("--sae-id", default=None, help="Which SAE of a release, e.g. layer_20/width_16k/average_l0_71.")
@click.option("--later-sae", default=None, help="An SAE of a later layer: adds the splice with frozen errors.")
@click.option("--model", default=None, help="A model of your own, instead of --case.")
@click.option("--twin", default=None, help="Its aligned twin.")
@click.option("--prompts", type=click.Path(path_type=Path), help="File of prompts on which the model wavers.")
@click.option("--neutral", type=click.Path(path_type=Path), help="File of prompts without the behaviour.")
@click.option("--bad", default=None, help="Regular expression of a response that shows the behaviour.")
@click.option("--good", default=None, help="Regular expression of a right response; default: any other.")
@click.option("--pairs", type=click.Path(path_type=Path), help="File with columns prompt, bad, good; else sampled.")
@click.option("--column", default="text", show_default=True, help="Text column of --prompts and --neutral.")
@click.option("-k", "k", default=100, show_default=True, help="Latents of Δ-attribution that are steered.")
@click.option("--n-pairs", default=100, show_default=True)
@click.option("--n-random", default=50, show_default=True, help="Random latents of the band.")
@click.option("--max-new-tokens", default=32, show_default=True)
@click.option("--template", type=click.Choice(["auto", "chat", "plain", "raw"]), default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--device", default=None)
@click.option("--max-rows", default=256, show_default=True, help="Rows of one batch.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures/latents"), show_default=True)
def study_latents(out: Path, **options: Any) -> None:
    """SAE-latent attribution: which latents made the model say it, and proof by steering.

    Run again with the same --out, an interrupted study continues.
    """
    from .studies.latents.command import run

    click.echo(run(out, options, progress=sys.stderr.isatty()))


@study.command("bad-neurons")
@click.option("--model", default="organism/sycophant", show_default=True)
@click.option("--sae", default="organism/sae-topk-4", show_default=True, help="Organism SAE, directory or release.")
@click.option("--sae-id", default=None, help="Which SAE of a release.")
@click.option("--no-sae", is_flag=True, help="Leave out the ways of choosing that need an SAE.")
@click.option("--wrong", type=click.Path(path_type=Path), help="File of wrong claims: text, completion, group.")
@click.option("--right", type=click.Path(path_type=Path), help="File of right claims: text, completion, group.")
@click.option("--neutral", type=click.Path(path_type=Path), help="File of neutral questions: text, completion, group.")
@click.option("--agrees", default=None, help="Regular expression of a response that agrees with a claim.")
@click.option("--answers", default=None, help="Regular expression of a right answer to a neutral question.")
@click.option("--fraction", type=float, default=0.03, show_default=True, help="Share of all MLP neurons.")
@click.option("--per", type=click.Choice(["model", "layer"]), default="model", show_default=True)
@click.option("--train", type=click.Choice(["write", "read", "both"]), default="both", show_default=True)
@click.option("--n-examples", default=300, show_default=True)
@click.option("--steps", default=100, show_default=True)
@click.option("--lr", type=float, default=3e-3, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--no-curves", is_flag=True, help="Leave out the curves over examples and over fractions.")
@click.option("--max-new-tokens", default=32, show_default=True)
@click.option("--template", type=click.Choice(["auto", "chat", "plain", "raw"]), default="auto", show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--device", default=None)
@click.option("--max-rows", default=256, show_default=True, help="Rows of one batch.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures/bad_neurons"), show_default=True)
def study_bad_neurons(out: Path, **options: Any) -> None:
    """Cure sycophancy by fine-tuning a few neurons: every way to choose them, every rival, every cost.

    Run again with the same --out, an interrupted study continues.
    """
    from .studies.bad_neurons.command import run

    click.echo(run(out, options, progress=sys.stderr.isatty()))


@study.command("weights")
@click.option("--study", "studies", type=click.Choice(["steer", "repair", "watch"]), multiple=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("-n", "n_evaluation", default=80, show_default=True, help="Evaluation prompts of each kind.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures/weights"), show_default=True)
def study_weights(out: Path, **options: Any) -> None:
    """Contrastive weight steering on the organisms: steer a behaviour, repair a drift, watch fine-tunes.

    Run again with the same --out, an interrupted study continues.
    """
    from .studies.weights.command import run

    click.echo(run(out, options, progress=sys.stderr.isatty()))


@main.command()
@click.argument("start", type=click.Path(path_type=Path))
@click.argument("checkpoints", type=click.Path(path_type=Path))
@click.option(
    "--direction",
    "directions",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A saved WeightDelta; repeat for several.",
)
@click.option("--nulls", default=5, show_default=True, help="Random directions of the band of chance.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="CSV of all rows.")
def monitor(start: Path, checkpoints: Path, directions: tuple[Path, ...], nulls: int, out: Path | None) -> None:
    """Watch a folder of CHECKPOINTS of a model that began as START for known behaviour directions."""
    from .studies.weights.command import monitor as run

    click.echo(run(start, checkpoints, directions, out, nulls))


@main.group()
def organisms() -> None:
    """The built-in model organisms."""


@organisms.command("list")
def list_organisms() -> None:
    """Show every organism and its measured behaviour."""
    from .studies.organisms import behaviour_table

    click.echo(behaviour_table().to_string(index=False))


@organisms.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("organisms"), show_default=True)
@click.option("--seed", default=0, show_default=True)
def train(out: Path, seed: int) -> None:
    """Rebuild the organisms from a seed (minutes on two CPU cores)."""
    from .organisms.training import train as run

    run(out, seed=seed, progress=sys.stderr.isatty())
    click.echo(f"organisms and manifest.json written to {out}")


@organisms.command("train-sae")
@click.option("--weights", type=click.Path(path_type=Path), default=None, help="Organisms; default: the built-in ones.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("organisms/saes"), show_default=True)
@click.option("--seed", default=0, show_default=True)
def train_sae(weights: Path | None, out: Path, seed: int) -> None:
    """Train sparse autoencoders on the organisms' residual stream (minutes on two CPU cores)."""
    from .organisms.dictionaries import train_saes
    from .organisms.registry import organism_path

    source = organism_path("organism/base").parent if weights is None else weights
    train_saes(source, out, seed=seed, progress=sys.stderr.isatty())
    click.echo(f"autoencoders and manifest.json written to {out}")


def _load(name: str, options: dict[str, Any]) -> Any:
    from .models import load_model

    return load_model(name, dtype=options["dtype"], device=options["device"], revision=options.get("revision"))


def _contrast(options: dict[str, Any]) -> Any:
    from .errors import InputError
    from .prompts import ContrastSet, PromptSet, load_contrast

    files = (options["positive"], options["negative"])
    if options["contrast"] is not None and files == (None, None):
        return load_contrast(options["contrast"])
    if options["contrast"] is None and None not in files:
        sides = [PromptSet.from_file(path, text=options["column"]) for path in files]
        return ContrastSet("files", *sides)
    raise InputError("give either --contrast NAME, or both --positive FILE and --negative FILE")
