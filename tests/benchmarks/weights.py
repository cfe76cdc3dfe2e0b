"""Weight steering as ratios in one run.

    python tests/benchmarks/weights.py [--shape small] [--device cpu]

A LoRA step (rank 32 on all linear maps) against plain transformers + peft on the same model and data; the cosine of two
low-rank deltas against building the matrices; adding a difference to a checkpoint on disk against copying its files.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from finetune import random_examples  # noqa: E402
from shapes import checkpoint, parser_of  # noqa: E402

RANK, BATCH = 32, 8


def ours(model, data, steps: int) -> float:
    """Seconds a step of our trainer."""
    from mechsurgery.training import LoRA, Recipe, finetune

    def run(n):
        start = time.perf_counter()
        finetune(model, data, LoRA(RANK, 16.0), recipe=Recipe(steps=n, batch=BATCH, lr=1e-4, validate_every=1000))
        return time.perf_counter() - start

    short = run(1)
    return (run(1 + steps) - short) / steps


def with_peft(folder, data, steps: int, device: str) -> float:
    """Seconds a step of transformers + peft with the same rank, targets, batches and loss."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    plain = get_peft_model(plain, LoraConfig(r=RANK, lora_alpha=16, lora_dropout=0.0, target_modules=targets))
    optimiser = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=1e-4)

    def one(i):
        rows = [
            (data.prompts[j % len(data)], data.completions[j % len(data)]) for j in range(i * BATCH, (i + 1) * BATCH)
        ]
        longest = max(len(p) + len(c) for p, c in rows)
        ids = torch.tensor([[0] * (longest - len(p) - len(c)) + [*p, *c] for p, c in rows], device=device)
        mask = torch.tensor(
            [[0] * (longest - len(p) - len(c)) + [1] * (len(p) + len(c)) for p, c in rows], device=device
        )
        labels = torch.tensor([[-100] * (longest - len(c)) + list(c) for p, c in rows], device=device)
        optimiser.zero_grad()
        plain(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimiser.step()

    one(0)
    start = time.perf_counter()
    for i in range(steps):
        one(i + 1)
    return (time.perf_counter() - start) / steps


def cosines(width: int) -> tuple[float, float]:
    """Seconds for the cosine of two low-rank differences of a width × 4·width matrix: as factors, and dense."""
    from mechsurgery.delta_parts import Dense, LowRank
    from mechsurgery.deltas import WeightDelta

    shape = (width, 4 * width)
    made = [
        WeightDelta({"w": LowRank(torch.randn(width, RANK), torch.randn(RANK, 4 * width), shape)}) for _ in range(2)
    ]
    start = time.perf_counter()
    thin = made[0].cosine(made[1])
    factors = time.perf_counter() - start
    start = time.perf_counter()
    dense = [WeightDelta({"w": Dense(delta.parts["w"].dense())}) for delta in made]
    full = dense[0].cosine(dense[1])
    assert abs(thin - full) < 1e-5
    return factors, time.perf_counter() - start


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--width", type=int, default=2048)
    options = parser.parse_args()
    from mechsurgery.intervention import export
    from mechsurgery.models import load_model
    from mechsurgery.models.streaming import stream_difference

    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(Path(name) / "model", options.shape)
        data = random_examples(64)
        own = ours(load_model(folder, device=options.device), data, options.steps)
        try:
            theirs = with_peft(folder, data, options.steps, options.device)
            print(f"LoRA step {own:.2f} s, transformers + peft {theirs:.2f} s: {own / theirs:.2f} x")
        except ModuleNotFoundError:
            print(f"LoRA step {own:.2f} s; pip install peft to compare with transformers + peft")
        thin, dense = cosines(options.width)
        print(
            f"cosine of low-rank differences, {options.width} x {4 * options.width}: {dense / thin:,.0f} x faster "
            "than dense"
        )
        start = time.perf_counter()
        shutil.copytree(folder, Path(name) / "copy")
        copied = time.perf_counter() - start
        difference = stream_difference(folder, Path(name) / "copy", Path(name) / "difference")
        start = time.perf_counter()
        export(folder, difference, Path(name) / "exported")
        exported = time.perf_counter() - start
        size = sum(p.stat().st_size for p in folder.glob("*.safetensors")) / 2**20
        print(f"adding a difference to {size:.0f} MiB: {size / exported:.0f} MiB/s, {exported / copied:.1f} x a copy")


if __name__ == "__main__":
    main()
