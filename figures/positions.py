"""The table of docs/interventions.md: steering and projecting at all positions, and at the prompt's end."""

import pandas as pd
from saved import save

import mechsurgery as ms
from mechsurgery.grading.world import REQUEST
from mechsurgery.models import Model, sites

DANGEROUS, BENIGN = 60, 30


def tried(model: Model, contrast: ms.ContrastSet) -> dict[str, list[ms.Intervention]]:
    """{what is done: the intervention at every layer}, all made from the difference of last-token means."""
    names, writes = sites.residual_sites(model), sites.residual_writes(model)
    statistics = ms.attribution.contrast_statistics(model, contrast, at=[*names, *writes])
    vectors = {site: statistics.difference(site).float() for site in names}
    caa = [ms.steer(ms.Direction({site: vector}, f"steer {i}")) for i, (site, vector) in enumerate(vectors.items())]
    zero = [ms.project_out(model, vector, name=f"zero {i}") for i, vector in enumerate(vectors.values())]
    means = statistics.negative.mean
    benign = [ms.project_out(model, v, to=means, name=f"mean {i}") for i, v in enumerate(vectors.values())]
    return {
        "steering, −0.5, all positions": [one.at(-0.5) for one in caa],
        "steering, −1, prompt's end": [one.at_prompt_end().named(f"{one.name}, end").at(-1) for one in caa],
        "direction to zero, all positions": zero,
        "direction to zero, prompt's end": [one.at_prompt_end().named(f"{one.name}, end") for one in zero],
        "direction to the benign mean, all positions": benign,
        "direction to the benign mean, prompt's end": [one.at_prompt_end().named(f"{one.name}, end") for one in benign],
    }


if __name__ == "__main__":
    held_out = ms.load_contrast("organism/refusal", split="heldout")
    sets = {"dangerous": held_out.positive.take(DANGEROUS), "benign": held_out.negative.take(BENIGN)}
    rows = []
    for name in ("instruct", "planted"):
        model = ms.load_model(f"organism/{name}")
        runs = tried(model, ms.load_contrast("organism/refusal", split="tuned", n=200))
        flat = [run for group in runs.values() for run in group]
        results = ms.evaluate(model, sets, flat, grades=[REQUEST], generation=ms.Generation(28))
        values = results.summary(["outcome"]).set_index(["prompt_set", "label", "intervention"])["value"]
        for what, group in runs.items():
            row = {"organism": name, "what is done": what}
            for where, label in (("dangerous", "complies"), ("benign", "complies"), ("benign", "refuses")):
                shares = " ".join(f"{100 * values[where, label, one.name]:.0f}" for one in group)
                row[f"{where}: {label}, %, by layer"] = shares
            rows.append(row)
    note = f"{DANGEROUS} dangerous and {BENIGN} benign requests about held-out nouns; six numbers are layers 0 to 5."
    print(save("positions", "positions.py", pd.DataFrame(rows), note))
