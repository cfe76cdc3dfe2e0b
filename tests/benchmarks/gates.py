"""Gates as ratios in one run: gradients, exact effects and trained gates against plain forward passes.

    python tests/benchmarks/gates.py [--shape smollm-135m] [--prompts 20] [--device cpu]

Prints the time of integrated gates of 8 steps (target: at most 30 forward passes of the same prompts) and of 150 steps
of trained gates (scaled up from `--steps`; at most 500), what exact effects of `--units` units, spread over all layers,
gain over a loop that puts out one unit of one prompt at a time (measured on `--naive` units and scaled up; at least 20
times), and the peak memory that each adds to the loaded model, in a process of its own.
"""

import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from shapes import N_WORDS, checkpoint, parser_of  # noqa: E402

MODES = ("forward", "gradient", "training")


def random_prompts(n: int, name: str, seed: int):
    """n prompts of 20 to 28 tokens."""
    from mechsurgery import PromptSet

    generator = torch.Generator().manual_seed(seed)

    def draw():
        length = int(torch.randint(20, 29, (1,), generator=generator))
        return " ".join(f"w{i}" for i in torch.randint(0, N_WORDS, (length,), generator=generator).tolist())

    return PromptSet.from_texts([draw() for _ in range(n)], name=name)


def task(model, options):
    """One token over another on some prompts, with the answers to as many others kept."""
    from mechsurgery.attribution import objectives

    def value(logits, read):
        log_p = logits[:, -1].log_softmax(-1)
        return log_p[:, 20] - log_p[:, 30]

    objective = objectives.from_function(
        model, random_prompts(options.prompts, "explained", 1), value, template="raw", floor=-100.0
    )
    others = random_prompts(options.prompts, "kept", 2)
    return objective.keeping(objectives.kept(model, others, template="raw", max_new_tokens=8))


def timed(work) -> float:
    """Seconds, with the device waited for."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def median(work, rounds: int = 3) -> float:
    """The middle of some timings."""
    return sorted(timed(work) for _ in range(rounds))[rounds // 2]


def spread(model, n: int):
    """n units, as evenly over all layers as they go."""
    from mechsurgery import Circuit
    from mechsurgery.models import sites

    names = sites.neuron_sites(model)
    chosen: dict[str, list[int]] = {}
    for i in range(n):
        chosen.setdefault(names[i * len(names) // n], []).append(7 * i + 1)
    return Circuit.from_indices(chosen, {name: sites.width(model, name) for name in names})


@torch.no_grad()
def one_by_one(model, objective, members, per_prompt: bool) -> None:
    """The loop that anyone would write: put a unit out, run the model, read the value."""
    rows = [[row] for row in range(len(objective.explain))] if per_prompt else [None]
    for site, index in members:

        def out(a, hook, index=index):
            a[..., index] = 0
            return a

        for chosen in rows:
            for read in objective.explain.batches(model, 64, chosen):
                with model.hooks(fwd_hooks=[(site, out)]):
                    logits = model(read.ids, attention_mask=read.mask)
                objective.explain.value(logits[:, -1:], read).sum().item()


def added(device: str, work) -> float:
    """MiB that some work adds, at its peak, to what is held before it; NaN where the system does not tell."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        # Loading needs more than the model: the high-water mark starts again from here (Linux).
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        work()
        return resident("VmHWM") - before
    except OSError:
        return float("nan")


def resident(key: str) -> float:
    """What Linux says of this process's memory, in MiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return float(line.split()[1]) / 2**10


def one_mode(options) -> dict[str, float]:
    """MiB that one kind of work adds, at its peak, to the loaded model; and the weights' own."""
    from mechsurgery import load_model
    from mechsurgery.attribution.causal import gate_gradient
    from mechsurgery.attribution.objectives import value_of
    from mechsurgery.attribution.trained import GateRecipe, trained_gates

    model = load_model(options.folder, dtype=options.dtype, device=options.device)
    objective = task(model, options)
    gc.collect()
    work = {
        "forward": lambda: value_of(model, objective.explain),
        "gradient": lambda: gate_gradient(model, objective),
        "training": lambda: trained_gates(model, objective, recipe=GateRecipe(steps=1)),
    }[options.mode]
    peak = added(options.device, work)
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    return {"memory": peak, "weights": weights}


def memories(options, folder: Path) -> dict[str, dict[str, float]]:
    """`one_mode` of every mode, each in its own process."""
    found = {}
    names = ("shape", "prompts", "dtype", "device")
    same = [part for name in names for part in (f"--{name}", str(getattr(options, name)))]
    for mode in MODES:
        command = [sys.executable, __file__, "--mode", mode, "--folder", str(folder), *same]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[mode] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--units", type=int, default=48)
    parser.add_argument("--naive", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--mode", choices=MODES, default=None)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    if options.mode is not None:
        print(json.dumps(one_mode(options)))
        return
    from mechsurgery import load_model
    from mechsurgery.attribution.causal import exact_effects, gate_gradient
    from mechsurgery.attribution.objectives import value_of
    from mechsurgery.attribution.trained import GateRecipe, trained_gates

    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(Path(name), options.shape)
        model = load_model(folder, dtype=options.dtype, device=options.device)
        objective = task(model, options)
        value_of(model, objective.explain)
        before = median(lambda: value_of(model, objective.explain))
        integrated = median(lambda: gate_gradient(model, objective, steps=8), 1 if options.device == "cpu" else 3)
        short, longer = (
            timed(lambda n=n: trained_gates(model, objective, recipe=GateRecipe(steps=n)))
            for n in (1, 1 + options.steps)
        )
        # What comes before the first step and after the last is left out.
        step = (longer - short) / options.steps
        # On both sides of what it is compared with, since other work may come and go.
        forward = (before + median(lambda: value_of(model, objective.explain))) / 2
        circuit = spread(model, options.units)
        exact = timed(lambda: exact_effects(model, objective, circuit))
        few = sorted(circuit.members())[:: max(1, len(circuit) // options.naive)]
        loops = [
            timed(lambda one=one: one_by_one(model, objective, few, one)) * len(circuit) / len(few)
            for one in (True, False)
        ]
        found = memories(options, folder)
    print(f"{options.shape}, {options.dtype} on {options.device}, {options.prompts} prompts of 20 to 28 tokens")
    print(f"{'':34} {'seconds':>9} {'ratio':>9}")
    rows = [
        ("one forward pass of all prompts", forward, 1.0, ""),
        ("integrated gates, 8 steps", integrated, integrated / forward, "x forward (target at most 30)"),
        ("trained gates, 150 steps, scaled", 150 * step, 150 * step / forward, "x forward (target at most 500)"),
        (f"exact effects, {len(circuit)} units", exact, exact / forward, "x forward"),
        ("  a loop over units and prompts", loops[0], loops[0] / exact, "x exact (target at least 20)"),
        ("  a loop over units", loops[1], loops[1] / exact, "x exact"),
    ]
    for label, seconds, ratio, what in rows:
        print(f"{label:34} {seconds:9.2f} {ratio:9.2f} {what}")
    weights = found["forward"]["weights"]
    print(f"{'peak memory added to the weights':34} {'MiB':>9} {'ratio':>9}")
    print(f"{'the weights themselves':34} {weights:9.0f} {1.0:9.2f}")
    for mode in MODES:
        own = found[mode]["memory"]
        print(f"{'one ' + mode:34} {own:9.0f} {own / weights:9.2f} x weights")


if __name__ == "__main__":
    main()
