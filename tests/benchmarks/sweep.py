"""A sweep of 6 prompts (`--prompts`) x 5 strengths x 2 methods x 32 new tokens, as ratios in one run.

    python tests/benchmarks/sweep.py [--shape smollm-135m] [--naive 4] [--device cpu]

Prints the time of `evaluate` on all rows against (a) a naive loop of one prompt, one method and one strength at a
time through `transformers.generate` with hooks, measured on `--naive` rows and scaled up (target: at least 12
times faster) and (b) plain batched `transformers.generate` of the same rows without hooks (target: at most 1.1
times its time), turn by turn, also in CPU seconds. Both generate every token: no end token stops a row.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from shapes import N_WORDS, checkpoint, parser_of  # noqa: E402

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5)


def prompts(n: int):
    """n prompts of 12 to 40 words."""
    from mechsurgery import PromptSet

    generator = torch.Generator().manual_seed(1)
    texts = []
    for _ in range(n):
        length = int(torch.randint(12, 41, (1,), generator=generator))
        texts.append(" ".join(f"w{int(i)}" for i in torch.randint(0, N_WORDS, (length,), generator=generator)))
    return PromptSet.from_texts(texts, name="random words")


def interventions(model):
    """A circuit of 0.1 % of neurons, and steering at one layer."""
    from mechsurgery import Circuit, Direction, ablate
    from mechsurgery.intervention import steer
    from mechsurgery.models import sites

    names = sites.neuron_sites(model)
    widths = {site: sites.width(model, site) for site in names}
    circuit = Circuit.from_indices({site: [0, 7] for site in names}, widths, name="circuit")
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    return (
        circuit,
        ablate(circuit),
        steer(Direction({sites.residual_sites(model)[len(names) // 2]: vector}, "steering")),
    )


@torch.no_grad()
def naive(plain, ids, circuit, vector, layer, n: int, new: int) -> list[list[int]]:
    """One prompt, method and strength at a time with plain PyTorch hooks."""
    made = []
    rows = [(prompt, method, s) for prompt in ids for method in ("circuit", "steering") for s in STRENGTHS]
    for prompt, method, strength in rows[:n]:
        handles = []
        if method == "circuit":
            for own, (indices, _) in zip(plain.model.layers, circuit.units.values()):

                def scale(module, args, indices=indices, strength=strength):
                    hidden = args[0].clone()
                    hidden[..., indices] *= 1 - strength
                    return (hidden,)

                handles.append(own.mlp.down_proj.register_forward_pre_hook(scale))
        else:

            def add(module, args, output, strength=strength):
                return output - strength * vector.to(output)

            handles.append(plain.model.layers[layer].register_forward_hook(add))
        tokens = torch.tensor([prompt], device=plain.device)
        out = plain.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, min_new_tokens=new, do_sample=False
        )
        made.append(out[0, len(prompt) :].tolist())
        for handle in handles:
            handle.remove()
    return made


@torch.no_grad()
def batched(plain, ids, repeats: int, new: int, max_rows: int) -> None:
    """Plain `transformers.generate` on the same rows without hooks, sorted by length and left-padded."""
    rows = sorted(list(ids) * repeats, key=len, reverse=True)
    for first in range(0, len(rows), max_rows):
        own = rows[first : first + max_rows]
        length = max(len(row) for row in own)
        padded = torch.tensor([[0] * (length - len(row)) + list(row) for row in own], device=plain.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in own], device=plain.device)
        plain.generate(padded, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False)


def timed(function, took: list[float]):
    """What a function gives; `took` is [seconds, CPU seconds] so far."""
    began = time.perf_counter(), time.process_time()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    took[0] += time.perf_counter() - began[0]
    took[1] += time.process_time() - began[1]
    return result


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--naive", type=int, default=4)
    parser.add_argument("--times", type=int, default=2, help="turns of ours and plain batched")
    parser.add_argument("--max-rows", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM

    from mechsurgery import evaluate, load_model
    from mechsurgery.evaluation import Generation
    from mechsurgery.prompts.chat import encode

    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(Path(name), options.shape)
        model = load_model(folder, dtype=options.dtype, device=options.device)
        model.tokenizer.eos_token_id = None
        model.stop_token_ids = ()
        asked = prompts(options.prompts)
        ids = encode(model.tokenizer, asked)
        circuit, *methods = interventions(model)
        runs = [run for method in methods for run in method.at(STRENGTHS)]
        settings = Generation(max_new_tokens=options.new, max_rows=options.max_rows)
        evaluate(model, asked.take(2), runs[:1], grades=(), generation=Generation(max_new_tokens=2))
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options.dtype)).eval()
        plain = plain.to(options.device)
        plain.generation_config.eos_token_id = None
        rows = len(ids) * (len(runs) + 1)
        batched(plain, ids[:2], 1, 2, 2)
        ours, own, slow = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
        for _ in range(options.times):
            results = timed(lambda: evaluate(model, asked, runs, grades=(), generation=settings), ours)
            timed(lambda: batched(plain, ids, len(runs) + 1, options.new, options.max_rows), own)
        made = results.table[results.table["metric"] == "tokens"]
        assert (made["tokens"].map(len) == options.new).all()
        layer = len(circuit.widths) // 2
        vector = -methods[1].edits[0].change.offset  # the naive loop subtracts it
        texts = timed(lambda: naive(plain, ids, circuit, vector, layer, options.naive, options.new), slow)
        scale = options.times * rows / options.naive
        table = made.set_index(["prompt_id", "intervention", "strength"])["tokens"]
        order = [(p.id, run.name, s) for p in asked for run in methods for s in STRENGTHS][: options.naive]
        equal = sum(list(table[key]) == text for key, text in zip(order, texts))
        print(f"rows: {rows} of {options.new} tokens ({options.device}, {options.dtype}), {options.times} times")
        print(f"seconds: {ours[0]:.1f}; plain batched: {own[0]:.1f}; naive loop ({options.naive} rows): {slow[0]:.1f}")
        print(f"same tokens as the naive loop: {equal} of {options.naive}")
        print(f"naive_over_ours (>= 12): {slow[0] / ours[0] * scale:.3g}")
        print(f"ours_over_plain_batched (<= 1.1): {ours[0] / own[0]:.3g}; in CPU seconds {ours[1] / own[1]:.3g}")


if __name__ == "__main__":
    main()
