"""The command line: the same functions, from a shell. Heavy imports happen inside each command."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from . import __version__
from .options import options_of
from .safe_text import visible

_RULES = ["difference", "effect_size", "welch_t", "auroc", "difference_write_norm", "difference_alignment"]


class _Friendly(click.Group):
    """Shows mechsurgery's own errors, and files that cannot be used, as one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from .errors import MechsurgeryError

        try:
            return super().invoke(ctx)
        except MechsurgeryError as error:
            raise click.ClickException(str(error)) from error
        except UnicodeEncodeError as error:
            raise click.ClickException(f"{error.object!r} is no text that a file can have as its name") from error
        except OSError as error:
            # A file that cannot be read or written, and not a pipe that nobody reads any more.
            if error.filename is None:
                raise
            raise click.ClickException(f"{str(error.filename)!r}: {error.strerror}; give another path") from error


def _say(text: str, **how: Any) -> None:
    """Print a text; what would command the terminal, or cannot be seen, is written out."""
    click.echo(visible(text), **how)


def _where(command: Any) -> Any:
    """The options that say how and where a model is loaded."""
    for option in (
        click.option("--revision", default=None, help="Revision of a hub id."),
        click.option(
            "--device",
            default=None,
            help="Where the model runs: cpu, cuda:1, several as in cuda:0,cuda:1=20GiB, auto (the default): all GPUs.",
        ),
        click.option("--dtype", default="auto", show_default=True, help="Number format; auto: the checkpoint's own."),
    ):
        command = option(command)
    return command


def _how(command: Any) -> Any:
    """The same, and as what a model is loaded."""
    option = click.option(
        "--bridge/--hooked",
        default=None,
        help="TransformerBridge or HookedTransformer [default: hooked where it can be].",
    )
    return _where(option(command))


def _spread(command: Any) -> Any:
    """The options that say which workers do it."""
    many = click.option(
        "--workers", "n_workers", type=click.IntRange(min=0), default=0, help="Workers on Ray [default: this process]."
    )
    where = click.option("--ray-address", default=None, help="Ray cluster of --workers [default: this machine].")
    return many(where(command))


def _sae(command: Any) -> Any:
    """The options that name the autoencoder whose latents a circuit holds."""
    named = click.option("--sae", default=None, help="Autoencoder whose latents CIRCUIT holds: a name or directory.")
    return named(click.option("--sae-id", default=None, help="Which autoencoder, where --sae is a release.")(command))


@click.group(cls=_Friendly, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="Log what is done.")
def main(verbose: bool) -> None:
    """Locate the few units of a language model that carry a behaviour, prove it, operate on just those."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")


@options_of(".studies.demo", "Settings")
def demo(settings: Any, out: Path, again: bool) -> None:
    """Locate, prove and plot a refusal circuit on the built-in organisms.

    Run again with the same --out, a finished one is read in seconds.
    """
    _run_study("demo", settings, out, again)


def _run_study(name: str, settings: Any, out: Path, again: bool) -> None:
    """Run a study, or read one that is finished with the same settings; other settings are refused without --again."""
    from importlib import import_module

    from .reports import finished

    if again:
        finished.unmark(out)
    finished.check_same(out, name, settings)
    package = import_module(f".studies.{name.replace('-', '_')}", __package__)
    study = package.run(settings, out=out)
    _say(f"{study.text()}\n\nreport: {out / 'report.html'}; other sizes: mechsurgery figures {out} --preset column")


main.add_command(demo)


@main.command("export")
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--circuit", type=click.Path(path_type=Path), help="Scale the MLP neurons of this circuit.")
@click.option("--m", type=float, default=None, help="Multiplier of the circuit's neurons [default: as found].")
@click.option("--steer", type=click.Path(path_type=Path), help="Add this saved Direction, times --strength.")
@click.option("--project-out", type=click.Path(path_type=Path), help="Take this saved Direction out of all writes.")
@click.option("--at", "site", default=None, help="Hook point of the vector for --project-out, where it has several.")
@click.option("--delta", type=click.Path(path_type=Path), help="Add this saved WeightDelta, times --strength.")
@click.option("--strength", type=float, default=1.0, show_default=True, help="Of --steer, --project-out and --delta.")
@click.option("--adapter", is_flag=True, help="Write a PEFT LoRA adapter and no whole checkpoint.")
@click.option("--max-rank", default=256, show_default=True, help="Largest rank of an --adapter.")
@click.option("--dtype", default=None, help="Number format of the weights [default: the source's own].")
@click.option("--revision", default=None, help="Revision of a hub id.")
def export_model(source: str, destination: Path, **options: Any) -> None:
    """Write SOURCE with an intervention in its weights as the Hugging Face directory DESTINATION.

    Its logits under plain transformers are those of the running intervention; several options are done together. No
    more than a few rows of the weights are in memory. Its README.md says what was done.
    """
    from .reports.leaving import leave

    _say(leave(source, destination, **options))


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
@_spread
@_how
@click.option("--out", type=click.Path(path_type=Path), default=Path("circuit.safetensors"), show_default=True)
def locate(model: str, out: Path, **options: Any) -> None:
    """Find the MLP neurons of MODEL that most separate two sets of prompts."""
    from .attribution import locate as run

    contrast = _contrast(options)
    loaded = _load(model, options)
    budget = {key: options[key] for key in ("fraction", "k") if options[key] is not None}
    keep = {key: options[key] for key in ("rule", "by", "per", "skip_layers")}
    with _workers(loaded, options) as workers:
        circuit = run(loaded, contrast, **keep, **budget, workers=workers)
    _say(repr(circuit))
    _say(circuit.to_frame().head(20).to_string(index=False))
    _say(f"saved to {circuit.save(out)}")


@main.command()
@click.argument("model")
@click.option("--circuit", "circuit_path", type=click.Path(path_type=Path), required=True)
@click.option("--prompts", default="organism/dangerous", show_default=True, help="Registered set, file or hub id.")
@click.option("--column", default=None, help="Text column where --prompts is a file.")
@click.option("--choices", default=None, help="Multiple-choice set, e.g. organism/choices.")
@click.option("--m", "multipliers", type=float, multiple=True, default=(0.0,), show_default=True)
@click.option("--controls", type=click.IntRange(min=0), default=50, show_default=True, help="Matched random circuits.")
@click.option("--n-control-prompts", default=32, show_default=True, help="Prompts at most that these answer.")
@click.option("-n", type=int, default=200, show_default=True, help="Prompts (all where there are fewer).")
@click.option("--max-new-tokens", default=48, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--all", "whole", is_flag=True, help="Print the whole table too.")
@_spread
@_how
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
def evaluate(model: str, circuit_path: Path, out: Path, whole: bool, **options: Any) -> None:
    """Scale a circuit of MODEL by m, beside the baseline and matched random circuits.

    Prints five lines: what changed, by how much, beside random circuits, what was damaged, where the files are. Run
    again with the same --out, an interrupted evaluation continues.
    """
    from .errors import InputError
    from .evaluation import Generation, pool_controls
    from .evaluation import evaluate as run
    from .evaluation.told import told
    from .intervention import as_found
    from .prompts import load_prompts
    from .units import Circuit
    from .written import clear

    text = {"text": options["column"]} if options["column"] else {}
    sets = {"prompts": load_prompts(options["prompts"], **text).take(options["n"], seed=options["seed"])}
    if options["choices"] is not None:
        sets["choices"] = load_prompts(options["choices"]).take(options["n"], seed=options["seed"])
        if not all(prompt.choices for prompt in sets["choices"]):
            raise InputError(f"--choices {options['choices']!r} is no set of multiple choice; give it with --prompts")
    wanted = [m for m in options["multipliers"] if m != 1]
    table = out / "results.parquet"
    before = table.read_bytes() if table.is_file() else None
    loaded = _load(model, options)
    with _workers(loaded, options) as workers:
        results = run(
            loaded,
            sets,
            as_found(Circuit.load(circuit_path)).at([1 - m for m in wanted]),
            controls=options["controls"],
            n_control_prompts=options["n_control_prompts"],
            generation=Generation(max_new_tokens=options["max_new_tokens"]),
            folder=out,
            workers=workers,
        )
    if before not in (None, table.read_bytes()):
        clear(out)  # figures that were drawn of the results before
    if whole:
        shown = pool_controls(results.summary()).drop(columns=["model", "kind", "scale"])
        _say(shown.to_string(index=False, float_format="{:.3f}".format, na_rep=""))
    _say("\n".join(told(results)))
    _say(f"Files: {out} (results.parquet, prompts.parquet, manifest.json); draw: mechsurgery figures {out}")


@main.command("plan")
@click.argument("model")
@click.option("--prompts", "n_prompts", default=200, show_default=True, help="Prompts that are read and answered.")
@click.option("--tokens", default=64, show_default=True, help="Tokens of a prompt, with its template.")
@click.option("--new-tokens", default=32, show_default=True, help="Tokens of an answer.")
@click.option("--steps", default=100, show_default=True, help="Steps of fine-tuning.")
@click.option("--limit", type=float, default=None, help="GiB that may be used [default: what is free].")
@_where
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Also write the table here, as CSV.")
def plan_model(model: str, limit: float | None, out: Path | None, **options: Any) -> None:
    """Say what MODEL needs on this machine: memory, time and batch of every verb, from its config.json alone.

    No weights are read or fetched. Models with two and six random layers of its shape are measured.
    """
    from .artifacts import write_text
    from .evaluation.planning import Work, plan, told

    work = Work(**{key: options[key] for key in ("n_prompts", "tokens", "new_tokens", "steps")})
    where = {key: options[key] for key in ("revision", "dtype", "device")}
    table = plan(model, work=work, limit=limit, **where)
    _say(told(table))
    if out is not None:
        _say(f"saved to {write_text(out, table.to_csv(index=False))}")


@main.command()
@click.argument("base")
@click.argument("instruct")
@click.option("--contrast", default=None, help="A registered contrast, e.g. organism/refusal or jbb.")
@click.option("--positive", type=click.Path(path_type=Path))
@click.option("--negative", type=click.Path(path_type=Path))
@click.option("--column", default="text", show_default=True)
@click.option("--rule", type=click.Choice(_RULES), default="difference", show_default=True)
@click.option("--fraction", type=float, default=0.001, show_default=True)
@_how
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures/compare"), show_default=True)
def compare(base: str, instruct: str, out: Path, **options: Any) -> None:
    """Locate with the same prompts on BASE and INSTRUCT, and compare the circuits."""
    from .attribution.compare import compare as run
    from .plots import comparison_drawings, export_all, save_drawings
    from .written import writing_into

    contrast = _contrast(options)
    names = (base, instruct)
    models = [_load(name, options) for name in names]
    result = run(models[0], models[1], contrast, rule=options["rule"], fraction=options["fraction"], names=names)
    _say(result.table.to_string(index=False, float_format="{:.4g}".format))
    drawings = comparison_drawings(result.scores, result.circuits)
    with writing_into(out, only=True):
        for stem, name in zip(("base", "instruct"), names):
            result.scores[name].save(out / "scores" / stem)
            result.circuits[name].save(out / "circuits" / stem)
        save_drawings(out, drawings)
        _say(export_all({name: one.figure() for name, one in drawings.items()}, out / "figures"))


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--preset", type=click.Choice(["column", "text", "slide", "screen"]), default=None, help="A size.")
@click.option("--formats", default=None, help="Such as pdf,png,svg,html; default: all but PDF.")
@click.option("--only", multiple=True, help="Name of a figure; repeat for several [default: all].")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="[default: FOLDER/figures, or its PRESET]")
def figures(folder: Path, preset: str | None, formats: str | None, only: tuple[str, ...], out: Path | None) -> None:
    """Draw every figure of a finished FOLDER again, of a study, an evaluation or a comparison; no model is needed."""
    from .reports.redraw import redraw

    asked = None if formats is None else [one.strip() for one in formats.split(",") if one.strip()]
    _say(redraw(folder, out=out, only=only, preset=preset, formats=asked))


@main.command("inspect")
@click.argument("model")
@click.argument("circuit", type=click.Path(path_type=Path))
@click.option("--contrast", default=None, help="A registered contrast [default: the one it was located with].")
@click.option("--positive", type=click.Path(path_type=Path), help="File of prompts that show the behaviour.")
@click.option("--negative", type=click.Path(path_type=Path), help="File of prompts that do not.")
@click.option("--column", default="text", show_default=True, help="Text column of the two files.")
@click.option("--base", default=None, help="A second model, whose activations are shown beside.")
@click.option("--port", default=0, show_default=True, help="Port on this machine; 0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Print the address, open no browser.")
@click.option("--save", type=click.Path(path_type=Path), default=None, help="Write one offline page here instead.")
@_sae
@_how
def inspect_units(model: str, circuit: Path, save: Path | None, **options: Any) -> None:
    """Explore the units of CIRCUIT in MODEL in the browser: where they fire, what they do, answers as they are scaled.

    CIRCUIT is a file that locate or a study wrote. Only this machine can reach the app; to see it from another one,
    give --port P there and log in with ssh -L P:127.0.0.1:P. Ctrl-C ends it.
    """
    from .inspector.catalogue import Catalogue
    from .inspector.reading import contrast_of, read_circuit

    units = read_circuit(circuit)
    given = any(options[key] is not None for key in ("contrast", "positive", "negative"))
    contrast = _contrast(options) if given else contrast_of(units)
    loaded = _load(model, options)
    base = None if options["base"] is None else _load(options["base"], {**options, "revision": None})
    dictionary = _dictionary(options, units, loaded)
    dictionaries = [] if dictionary is None else [dictionary]
    catalogue = Catalogue(loaded, contrast, units, base=base, dictionaries=dictionaries)
    if save is not None:
        from .inspector.report import report

        _say(f"saved to {report(catalogue, save)}")
        return
    from .inspector.app import serve

    serve(catalogue, port=options["port"], on_ready=partial(_show_address, opened=not options["no_browser"]))
    _say("ended")


def _show_address(address: str, *, opened: bool) -> None:
    """Say where the app is, and open it in the browser if asked to and there is a screen."""
    _say(f"explore it at {address}\nCtrl-C ends it")
    screen = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    if opened and screen:
        import threading
        import webbrowser

        # Some browsers come back only when they are closed.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


@main.command()
@click.argument("model")
@click.option("--circuit", "circuit_path", type=click.Path(path_type=Path), help="Scale the units of this circuit.")
@click.option("--m", type=float, default=0.0, show_default=True, help="Multiplier of the circuit's units; 0: as found.")
@click.option("--steer", "direction_path", type=click.Path(path_type=Path), help="Steer along this saved Direction.")
@click.option("--strength", type=float, default=1.0, show_default=True, help="How far to steer.")
@click.option("--max-new-tokens", default=128, show_default=True)
@click.option("--single", is_flag=True, help="Every line is a prompt by itself; nothing is remembered.")
@_sae
@_how
def chat(model: str, circuit_path: Path | None, direction_path: Path | None, **options: Any) -> None:
    """Talk to MODEL while a circuit is scaled or a direction steers; /help lists what can be said.

    Reads a pipe, too: one line is one turn.
    """
    from .directions import Direction
    from .inspector.chat import Chat, converse, typed_lines
    from .inspector.reading import read_circuit

    if circuit_path is None and direction_path is None:
        raise click.UsageError("give what is to be changed: --circuit FILE, --steer FILE, or both")
    keep = {key: options[key] for key in ("m", "strength", "max_new_tokens", "single")}
    circuit = None if circuit_path is None else read_circuit(circuit_path)
    direction = None if direction_path is None else Direction.load(direction_path)
    loaded = _load(model, options)
    dictionary = None if circuit is None else _dictionary(options, circuit, loaded)
    talk = Chat(loaded, circuit=circuit, dictionary=dictionary, direction=direction, **keep)
    _say(talk.introduction(), err=True)
    converse(talk, typed_lines(), partial(_say, nl=False))


@main.group()
def study() -> None:
    """A whole paper on your model: every table and figure, with controls, and a report."""


def _study(name: str, explained: str) -> None:
    """Add a study's command; its options come from the study's settings."""
    package = f".studies.{name.replace('-', '_')}"

    def command(settings: Any, out: Path, again: bool) -> None:
        _run_study(name, settings, out, again)

    told = "Run again with the same --out, it continues; a finished one is read in seconds."
    command.__name__, command.__doc__ = name, f"{explained}\n\n{told}"
    study.add_command(options_of(package, "Settings")(command))


for _name, _explained in {
    "cna": "Contrastive neuron attribution: locate, ablate, compare with steering and with the base model.",
    "latents": "SAE-latent attribution: which latents made the model say it, and proof by steering.",
    "bad-neurons": "Cure sycophancy by fine-tuning a few neurons: every way to choose them, every rival, every cost.",
    "localisers": "A benchmark of localisers: which finds the units that decide, at what size and cost.",
    "weights": "Contrastive weight steering of organisms or your own model: steer, repair a drift, watch fine-tunes.",
}.items():
    _study(_name, _explained)


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
@click.option("--nulls", default=1000, show_default=True, help="Random directions of the band of chance.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random directions.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="CSV of all rows.")
def monitor(
    start: Path, checkpoints: Path, directions: tuple[Path, ...], nulls: int, seed: int, out: Path | None
) -> None:
    """Watch a folder of CHECKPOINTS of a model that began as START for known behaviour directions.

    Each cosine stands beside the band that holds 95 % of random directions with the same norms.
    """
    from .artifacts import write_text
    from .deltas import WeightDelta
    from .training.monitor import checkpoints_under, first_for_good, watch_checkpoints

    known = {path.stem: WeightDelta.load(path) for path in directions}
    table = watch_checkpoints(start, checkpoints_under(checkpoints), known, nulls=nulls, seed=seed)
    if out is not None:
        write_text(out, table.to_csv(index=False))
    shown = table.assign(checkpoint=[Path(path).name for path in table["checkpoint"]])
    _say(shown.to_string(index=False, float_format="{:.4f}".format))
    for label, rows in table.groupby("direction", sort=False):
        first = first_for_good(rows["step"], rows["outside"])
        named = dict(zip(rows["step"], shown.loc[rows.index, "checkpoint"]))
        left = (
            f"outside the band for good from {named[int(first)]} on" if first == first else "inside the band at the end"
        )
        _say(f"{label}: {left}")


@main.group()
def organisms() -> None:
    """The built-in model organisms."""


@organisms.command("list")
def list_organisms() -> None:
    """Show every organism and its measured behaviour."""
    from .organisms.record import behaviour_table

    _say(behaviour_table().to_string(index=False))


@organisms.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("organisms"), show_default=True)
@click.option("--seed", default=0, show_default=True)
def train(out: Path, seed: int) -> None:
    """Rebuild the organisms from a seed (minutes on two CPU cores)."""
    from .organisms.training import train as run

    run(out, seed=seed)
    _say(f"organisms and manifest.json written to {out}")


@organisms.command("train-sae")
@click.option("--weights", type=click.Path(path_type=Path), default=None, help="Organisms; default: the built-in ones.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("organisms/saes"), show_default=True)
@click.option("--seed", default=0, show_default=True)
def train_sae(weights: Path | None, out: Path, seed: int) -> None:
    """Train sparse autoencoders on the organisms' residual stream (minutes on two CPU cores)."""
    from .organisms.dictionaries import train_saes
    from .organisms.registry import organism_path

    source = organism_path("organism/base").parent if weights is None else weights
    train_saes(source, out, seed=seed)
    _say(f"autoencoders and manifest.json written to {out}")


def _load(name: str, options: dict[str, Any]) -> Any:
    from .models import load_model

    how = {key: options[key] for key in ("dtype", "device", "revision", "bridge")}
    return load_model(name, **how)


def _workers(model: Any, options: dict[str, Any]) -> Any:
    """A context of the workers asked for; None in it where this process is to do it alone."""
    from contextlib import nullcontext

    if not options["n_workers"]:
        if options["ray_address"] is not None:
            raise click.UsageError("--ray-address is where --workers run; say how many")
        return nullcontext()
    from .adapters.many import Workers
    from .models.spread import devices_of

    gpus = sum(device.type == "cuda" for device in devices_of(model))
    load = {} if options["revision"] is None else {"revision": options["revision"]}
    return Workers(options["n_workers"], address=options["ray_address"], gpus=gpus, load=load)


def _dictionary(options: dict[str, Any], circuit: Any, model: Any) -> Any:
    """The autoencoder whose latents a circuit holds; None for one of the model's own units."""
    from .adapters.saelens import load_sae
    from .errors import InputError
    from .names import LATENTS

    if not any(site.endswith(LATENTS) for site in circuit.units):
        return None
    if options["sae"] is None:
        raise InputError(f"circuit {circuit.name!r} holds latents of an autoencoder; say of which one with --sae")
    return load_sae(options["sae"], options["sae_id"], model=model)


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


if __name__ == "__main__":
    main()
