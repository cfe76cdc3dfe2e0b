"""A fine-tuning step of 3 % of the neurons against one of all weights, as ratios in one run.

    python tests/benchmarks/finetune.py [--shape smollm-135m] [--fraction 0.03] [--device cpu]

Prints the time of a step (target: at most 0.7 times) and the peak memory it adds over the loaded model (target: at most
0.5 times), each mode in its own process. Both run the same trainer on the same data; "all weights" trains every weight
of attention and MLPs.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from shapes import N_WORDS, checkpoint, parser_of, peak_memory  # noqa: E402


def random_examples(n: int):
    """n prompts of 24 to 40 tokens with completions of 8 to 16 tokens."""
    from mechsurgery.prompts import Examples

    generator = torch.Generator().manual_seed(3)

    def draw(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(10, N_WORDS, (length,), generator=generator).tolist())

    return Examples(tuple(draw(24, 41) for _ in range(n)), tuple(draw(8, 17) for _ in range(n)))


def one_mode(options) -> dict[str, float]:
    """Seconds and CPU seconds a step and added MiB of one mode."""
    from mechsurgery import Circuit, load_model
    from mechsurgery.models import sites
    from mechsurgery.training import Recipe, finetune

    model = load_model(options.folder, dtype="float32", device=options.device)
    data = random_examples(4 * options.batch)
    names = sites.neuron_sites(model)
    widths = {site: sites.width(model, site) for site in names}
    generator = torch.Generator().manual_seed(0)
    chosen = {
        site: torch.randperm(n, generator=generator)[: max(1, round(options.fraction * n))].sort().values.tolist()
        for site, n in widths.items()
    }
    where = "blocks" if options.mode == "all" else Circuit.from_indices(chosen, widths, name="neurons")
    with torch.no_grad():
        model(torch.randint(10, N_WORDS, (options.batch, 56), device=options.device))
    base = peak_memory(options.device)

    def took(steps: int) -> tuple[float, float]:
        began = time.perf_counter(), time.process_time()
        finetune(model, data, where, recipe=Recipe(steps=steps, batch=options.batch, lr=1e-4, validate_every=100))
        return time.perf_counter() - began[0], time.process_time() - began[1]

    took(1)
    short, long = took(1), took(1 + options.steps)
    seconds, cpu = ((after - before) / options.steps for before, after in zip(short, long))
    return {"seconds": seconds, "cpu": cpu, "memory": peak_memory(options.device) - base}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--fraction", type=float, default=0.03)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--times", type=int, default=2, help="turns of both; the least of each counts")
    parser.add_argument("--mode", choices=["neurons", "all"], default=None)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    if options.mode is not None:
        print(json.dumps(one_mode(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(Path(name), options.shape)
        found: dict[str, list[dict[str, float]]] = {"neurons": [], "all": []}
        for mode in options.times * ("neurons", "all"):
            command = [
                sys.executable,
                __file__,
                "--mode",
                mode,
                "--folder",
                str(folder),
                "--device",
                options.device,
                "--batch",
                str(options.batch),
                "--steps",
                str(options.steps),
                "--fraction",
                str(options.fraction),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[mode].append(json.loads(done.stdout.strip().splitlines()[-1]))
    few, everything = ({key: min(one[key] for one in runs) for key in runs[0]} for runs in found.values())
    print(
        f"{options.shape}, float32 on {options.device}, {100 * options.fraction:g} % of neurons, batch {options.batch}"
    )
    print(
        f"step {few['seconds']:.2f} s against {everything['seconds']:.2f} s: "
        f"{few['seconds'] / everything['seconds']:.2f} x (target at most 0.7); "
        f"in CPU seconds {few['cpu'] / everything['cpu']:.2f} x"
    )
    print(
        f"added memory {few['memory']:.0f} MiB against {everything['memory']:.0f} MiB: "
        f"{few['memory'] / everything['memory']:.2f} x (target at most 0.5)"
    )


if __name__ == "__main__":
    main()
