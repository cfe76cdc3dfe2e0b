"""The explorer: seconds until its table and pages, from a question to the first word, and the size of the saved page.

Run by hand: `python tests/benchmarks/explorer.py [organism/instruct | smollm-135m | small]`. Times beside one plain
forward pass of the same prompts, in the same run.
"""

import sys
import tempfile
import time
from pathlib import Path

import shapes
import torch

import mechsurgery as ms
from mechsurgery.attribution import contrast_statistics
from mechsurgery.inspector import Catalogue, report
from mechsurgery.inspector.live import Ask, Live


def timed(function):
    start = time.perf_counter()
    found = function()
    return found, time.perf_counter() - start


def contrast_of(name):
    if name.startswith("organism/"):
        return ms.load_contrast("organism/refusal", split="heldout").take(200)
    sides = ([" ".join(f"w{(37 * i + 11 * j * k) % 4000}" for j in range(12)) for i in range(50)] for k in (1, 3))
    return ms.ContrastSet.from_lists(*sides)


def main(name="organism/instruct"):
    with tempfile.TemporaryDirectory() as folder:
        model = ms.load_model(name if name.startswith("organism/") else shapes.checkpoint(Path(folder), name))
        contrast = contrast_of(name)
        _, plain = timed(lambda: contrast_statistics(model, contrast))
        catalogue = Catalogue(model, contrast, ms.locate(model, contrast, k=48), contexts=50, responses=50)
        said = {"one streamed pass": plain, "table": timed(catalogue.document)[1]}
        first, second = (unit.name for unit in catalogue.units[:2])
        said["first page"] = timed(lambda: catalogue.page(first))[1]
        said["next page"] = timed(lambda: catalogue.page(second))[1]
        ask = Ask(contrast.positive.texts[0], {unit.name: 0.0 for unit in catalogue.units[:48]}, random=0)
        waits = [timed(lambda: next(Live(catalogue).stream(ask)))[1] for _ in range(20)]
        said["question to first word, longest of 20"] = max(waits)
        path, said["saved page of the whole table"] = timed(lambda: report(catalogue, Path(folder) / "report.html"))
        print(f"{name}, {len(catalogue.units)} units, {torch.get_num_threads()} threads")
        for what, seconds in said.items():
            print(f"{what}: {seconds:.3g} s, {seconds / plain:.2g} × one pass")
        print(f"saved page: {path.stat().st_size / 1e6:.1f} MB, up to 50 prompts and 50 answers a unit")


if __name__ == "__main__":
    main(*sys.argv[1:])
