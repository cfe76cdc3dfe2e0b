"""What the planner says against what is measured, for random checkpoints of three sizes.

    python tests/benchmarks/planner.py [--shapes small smollm-135m llama-1b] [--device cpu]

The plan is made from config.json alone; then the whole checkpoint is written and the same verbs are run on the planned
batch. Prints predicted over measured seconds and memory (target: 0.75 to 1.25).
"""

import argparse
import gc
import sys
import tempfile
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent)]
from shapes import SHAPES  # noqa: E402

WORK = {"n_prompts": 16, "tokens": 64, "new_tokens": 16, "steps": 2}


def compared(folder: Path, config, dtype: torch.dtype, device: torch.device) -> list[dict]:
    """A row for every verb."""
    import time

    from mechsurgery import load_model
    from mechsurgery.evaluation import planning
    from mechsurgery.evaluation.miniature import write_miniature
    from mechsurgery.models import memory

    work = planning.Work(**WORK)
    config.save_pretrained(folder / "config")
    planned = planning.plan(folder / "config", work=work, device=device, progress=False).set_index("verb")
    write_miniature(config, folder / "whole", dtype)
    gc.collect()
    load_model(folder / "whole", device=device)
    gc.collect()
    began = memory.process(device)
    with memory.peak(device) as peak:
        start = time.perf_counter()
        model = load_model(folder / "whole", device=device)
        measured = {"loading": (time.perf_counter() - start, began + peak())}
    gc.collect()
    for verb, run in planning._verbs(work).items():
        batch = int(planned.loc[verb, "batch"])
        before = memory.process(device)
        seconds, most = planning._timed(run(model, batch), device)
        rounds = planned.loc[verb, "rows"] / batch / planning._BATCHES.get(verb, 1)
        measured[verb] = seconds * rounds, before + most
    rows = []
    for verb, (seconds, most) in measured.items():
        one = planned.loc[verb]
        rows.append(
            {
                "verb": verb,
                "seconds": seconds,
                "planned_over_measured": one["seconds"] / seconds,
                "GiB": most / memory.GIB,
                "planned_over_measured_memory": one["memory"] * memory.GIB / most,
            }
        )
    return rows


def main() -> None:
    import pandas as pd
    from transformers import LlamaConfig

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["small", "smollm-135m", "llama-1b"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    for shape in options.shapes:
        dtype = getattr(torch, options.dtype)
        config = LlamaConfig(
            **SHAPES[shape], max_position_embeddings=512, architectures=["LlamaForCausalLM"], dtype=dtype
        )
        with tempfile.TemporaryDirectory() as name:
            table = pd.DataFrame(compared(Path(name), config, dtype, torch.device(options.device)))
        print(f"\n{shape}\n{table.to_string(index=False, float_format='{:.3g}'.format)}")


if __name__ == "__main__":
    main()
