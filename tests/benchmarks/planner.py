"""What the planner says against what is measured, for random checkpoints of three sizes.

    python tests/benchmarks/planner.py [--shapes small smollm-135m llama-1b] [--device cpu] [--runs 3]

The plan is made from config.json alone; then the whole checkpoint is written, and what was planned is done with it as a
user would do it, several times. Prints the medians of seconds by the clock and of the processor and of memory, the
slowest over the fastest run by the clock, and predicted over measured (target: 0.75 to 1.25). With one thread
(`OMP_NUM_THREADS=1`) the processor's seconds are those of a machine that does nothing else.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent)]
from shapes import SHAPES  # noqa: E402

WORK = {"n_prompts": 16, "tokens": 64, "new_tokens": 16, "steps": 2}


def calls(model, work):
    """{verb: what is planned, as a user calls it}."""
    from mechsurgery.attribution import contrast_statistics, gate_gradient
    from mechsurgery.attribution.objectives import from_pairs
    from mechsurgery.evaluation import trials
    from mechsurgery.models.generate import generate
    from mechsurgery.training import Recipe, finetune

    contrast = trials.contrast_of(model, work.n_prompts // 2, work.tokens)
    ids = trials.token_rows(model, work.n_prompts, work.tokens)
    objective = from_pairs(trials.pairs_of(model, work.n_prompts, work.tokens))
    data, part = trials.examples_of(model, 16 * work.steps, work.tokens), trials.part_of(model)
    recipe = Recipe(steps=work.steps, batch=16)
    return {
        "discovery": lambda: contrast_statistics(model, contrast, template="raw", progress=False),
        "answers": lambda: generate(model, ids, max_new_tokens=work.new_tokens, stop=()),
        "gradients": lambda: gate_gradient(model, objective, progress=False),
        "fine-tuning": lambda: finetune(model, data, part, recipe=recipe, progress=False),
    }


def measured(run, device: torch.device, runs: int) -> dict[str, float]:
    """Medians of some runs."""
    from mechsurgery.models import memory

    clock, worked, most = [], [], []
    for _ in range(runs):
        gc.collect()
        before = memory.process(device)
        with memory.peak(device) as peak:
            start, processor = time.perf_counter(), time.process_time()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            clock.append(time.perf_counter() - start)
            worked.append(time.process_time() - processor)
            most.append(before + peak())
    return {
        "clock": statistics.median(clock),
        "spread": max(clock) / min(clock),
        "processor": statistics.median(worked),
        "GiB": statistics.median(most) / memory.GIB,
    }


def compared(folder: Path, config, dtype: torch.dtype, device: torch.device, runs: int) -> list[dict]:
    """A row for every verb."""
    from mechsurgery import load_model
    from mechsurgery.evaluation.miniature import write_miniature
    from mechsurgery.evaluation.planning import Work, plan

    work = Work(**WORK)
    config.save_pretrained(folder / "config")
    start = time.perf_counter()
    planned = plan(folder / "config", work=work, device=device, progress=False).set_index("verb")
    print(f"\nplanned in {time.perf_counter() - start:.0f} s", flush=True)
    write_miniature(config, folder / "whole", dtype)
    load_model(folder / "whole", device=device)
    found = {"loading": measured(lambda: load_model(folder / "whole", device=device), device, runs)}
    model = load_model(folder / "whole", device=device)
    found |= {verb: measured(run, device, runs) for verb, run in calls(model, work).items()}
    rows = []
    for verb, one in found.items():
        guess = planned.loc[verb]
        over = {"over_clock": guess["seconds"] / one["clock"], "over_processor": guess["seconds"] / one["processor"]}
        over["memory_over"] = guess["memory"] / one["GiB"]
        rows.append({"verb": verb, "planned": guess["seconds"], **one, **over})
    return rows


def main() -> None:
    import pandas as pd
    from transformers import LlamaConfig

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["small", "smollm-135m", "llama-1b"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    for shape in options.shapes:
        dtype = getattr(torch, options.dtype)
        config = LlamaConfig(
            **SHAPES[shape], max_position_embeddings=512, architectures=["LlamaForCausalLM"], dtype=dtype
        )
        with tempfile.TemporaryDirectory() as name:
            table = pd.DataFrame(compared(Path(name), config, dtype, torch.device(options.device), options.runs))
        print(f"{shape}, {options.dtype}\n{table.to_string(index=False, float_format='{:.3g}'.format)}", flush=True)


if __name__ == "__main__":
    main()
