"""Discovery on a 135M-parameter Llama-shaped model: streamed and batched against naive, as ratios in one run.

    python tests/benchmarks/discovery.py [--prompts 200] [--apart 48] [--device cpu]

Prints the time of `contrast_statistics` over prompts that begin with the same system prompt of `--header` words, which
is run once, against one bare batched forward of all their tokens (target: at most 0.7 times); over `--apart` prompts
that have nothing in common, against (a) the naive per-prompt loop in `tests/reference/naive_cna.py` (target: at least
6 times faster) and (b) one bare batched forward of the same tokens without hooks (target: at most 1.15 times its time);
and the peak memory for these and for four times as many, each in a process of its own (target: equal).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from shapes import checkpoint, peak_memory  # noqa: E402


def contrast(n: int, header: int = 0):
    """n prompts of 12 to 40 words, half on each side, after `header` words that are the same in all."""
    from mechsurgery import ContrastSet

    generator = torch.Generator().manual_seed(1)
    system = "".join(f"w{i} " for i in range(header))

    def text() -> str:
        length = int(torch.randint(12, 41, (1,), generator=generator))
        return system + " ".join(f"w{int(i)}" for i in torch.randint(0, 4000, (length,), generator=generator))

    return ContrastSet.from_lists([text() for _ in range(n // 2)], [text() for _ in range(n // 2)], name="random words")


def timed(function, repeats: int = 3):
    """Median seconds of several runs after one warm-up, and the last result."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[repeats // 2], result


def speed(folder: Path, n: int, device: str) -> dict:
    from reference import naive_cna
    from transformers import AutoModelForCausalLM

    from mechsurgery import load_model
    from mechsurgery.attribution import contrast_statistics
    from mechsurgery.models import tokens
    from mechsurgery.prompts.chat import encode

    prompts = contrast(n)
    model = load_model(folder, device=device)
    ours, statistics = timed(lambda: contrast_statistics(model, prompts))
    sides = [encode(model.tokenizer, side) for side in (prompts.positive, prompts.negative)]

    @torch.no_grad()
    def bare():
        for ids in sides:
            for batch in tokens.batches(ids, pad_id=tokens.pad_id(model), device=device):
                model(batch.ids, attention_mask=batch.mask, stop_at_layer=model.cfg.n_layers)

    bare_seconds, _ = timed(bare)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    start = time.perf_counter()
    naive = naive_cna.mean_difference(plain, *sides)
    naive_seconds = time.perf_counter() - start
    found = torch.stack([statistics.difference(site) for site in statistics.sites]).cpu().numpy()
    return {
        "prompts": n,
        "seconds": ours,
        "naive_over_ours (>= 6)": naive_seconds / ours,
        "ours_over_bare_forward (<= 1.15)": ours / bare_seconds,
        "largest_error": float(abs(found - naive).max()),
    }


def shared(folder: Path, n: int, header: int, times: int, device: str) -> dict:
    """Discovery on prompts of one template against a bare batched forward, turn by turn, in seconds and CPU seconds."""
    from mechsurgery import load_model
    from mechsurgery.attribution import contrast_statistics
    from mechsurgery.models import tokens
    from mechsurgery.prompts.chat import encode

    prompts = contrast(n, header)
    model = load_model(folder, device=device)
    ids = [row for side in (prompts.positive, prompts.negative) for row in encode(model.tokenizer, side)]

    @torch.no_grad()
    def bare():
        for batch in tokens.batches(ids, pad_id=tokens.pad_id(model), device=device):
            model(batch.ids, attention_mask=batch.mask, stop_at_layer=model.cfg.n_layers)

    took = {"ours": [0.0, 0.0], "bare": [0.0, 0.0]}
    contrast_statistics(model, contrast(8, header))
    for _ in range(times):
        for name, function in (("ours", lambda: contrast_statistics(model, prompts)), ("bare", bare)):
            began = time.perf_counter(), time.process_time()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            took[name][0] += time.perf_counter() - began[0]
            took[name][1] += time.process_time() - began[1]
    return {
        "tokens": sum(map(len, ids)),
        "shared_prefix_over_bare_forward (<= 0.7)": took["ours"][0] / took["bare"][0],
        "the same in CPU seconds": took["ours"][1] / took["bare"][1],
    }


def memory(folder: Path, n: int, device: str) -> dict:
    from mechsurgery import load_model
    from mechsurgery.attribution import contrast_statistics

    model = load_model(folder, device=device)
    contrast_statistics(model, contrast(n))
    return {"prompts": n, "peak_MiB": peak_memory(device)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--header", type=int, default=40)
    parser.add_argument("--times", type=int, default=1, help="turns of ours and the bare forward")
    parser.add_argument("--apart", type=int, default=48)
    parser.add_argument("--only", choices=["shared"], default=None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.folder, options.memory, options.device)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(Path(name))
        for key, value in shared(folder, options.prompts, options.header, options.times, options.device).items():
            print(f"{key}: {value:.4g}", flush=True)
        if options.only == "shared":
            return
        for key, value in speed(folder, options.apart, options.device).items():
            print(f"{key}: {value:.4g}")
        peaks = []
        for n in (options.apart, 4 * options.apart):
            command = [sys.executable, __file__, "--memory", str(n), "--folder", name, "--device", options.device]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.append(json.loads(out.splitlines()[-1]))
            print(peaks[-1])
        print(
            f"peak memory, {peaks[1]['prompts']} over {peaks[0]['prompts']} prompts (target 1): "
            f"{peaks[1]['peak_MiB'] / peaks[0]['peak_MiB']:.3f}"
        )


if __name__ == "__main__":
    main()
