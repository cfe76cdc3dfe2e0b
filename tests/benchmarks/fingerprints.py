"""How much of a study's time its fingerprints of the model take: discovery, then a sweep, on a 135M Llama shape.

    python tests/benchmarks/fingerprints.py [--prompts 64] [--answered 16] [--new 32] [--device cpu]

Loads the model, finds a circuit by `locate` on `--prompts` prompts a side and evaluates its ablation at 3 strengths on
`--answered` prompts of `--new` tokens, as a study does. Prints the share of the time in which the weights are hashed
(target: at most 2 %).
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from discovery import contrast  # noqa: E402
from shapes import checkpoint, parser_of  # noqa: E402
from sweep import prompts  # noqa: E402


def timed(function, took: list[float]):
    """A function that adds the seconds of each of its calls to a list."""

    def call(*given):
        start = time.perf_counter()
        result = function(*given)
        took.append(time.perf_counter() - start)
        return result

    return call


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--answered", type=int, default=16)
    parser.add_argument("--new", type=int, default=32)
    options = parser.parse_args()
    from mechsurgery import ablate, evaluate, load_model, locate
    from mechsurgery.evaluation import Generation
    from mechsurgery.models import fingerprint

    quick, whole = [], []
    fingerprint._quick_digest = timed(fingerprint._quick_digest, quick)
    fingerprint._fingerprint = timed(fingerprint._fingerprint, whole)
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(Path(name), options.shape)
        start = time.perf_counter()
        model = load_model(folder, device=options.device)
        model.tokenizer.eos_token_id = None
        model.stop_token_ids = ()
        circuit = locate(model, contrast(2 * options.prompts), fraction=0.001)
        found = time.perf_counter() - start
        runs = ablate(circuit).at((0.5, 1.0, 1.5))
        settings = Generation(max_new_tokens=options.new)
        evaluate(model, prompts(options.answered), runs, grades=(), generation=settings)
        total = time.perf_counter() - start
    print(f"{total:.1f} s: discovery {found:.1f}, the sweep {total - found:.1f} ({options.device})")
    print(f"looks at weights: {len(quick)} in {sum(quick):.2f} s; checksums: {len(whole)} in {sum(whole):.2f} s")
    print(f"fingerprints_over_all (<= 0.02): {(sum(quick) + sum(whole)) / total:.3g}")


if __name__ == "__main__":
    main()
