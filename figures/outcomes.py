"""The tables of docs/outcomes.md as markdown: `python figures/outcomes.py` (about two minutes on two CPU cores).

Error rates of the general outcome grader on labelled answers (tests/grading/labelled.jsonl), and its agreement with the
exact graders on the organisms' rows.
"""

import json
import random
import re
from pathlib import Path

import pandas as pd

import mechsurgery as ms
from mechsurgery.grading.coherence import calibrated
from mechsurgery.grading.outcome import REFUSAL_OUTCOME, refusal_outcome
from mechsurgery.grading.refusal import REFUSAL
from mechsurgery.grading.world import REQUEST
from mechsurgery.models import sites
from mechsurgery.organisms.phrases import PLANS, WARNING
from mechsurgery.organisms.registry import planted_units
from mechsurgery.prompts import Prompt

LABELLED = Path(__file__).parents[1] / "tests" / "grading" / "labelled.jsonl"
WRONG_FACTS = "complies, wrong facts"
LABELS = ["refuses", "complies", "broken"]


def labelled() -> pd.DataFrame:
    """The labelled answers with what each grader says: the old word list (never "broken") and the text-only outcome."""
    rows = pd.DataFrame([json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()])
    items = [(Prompt("p", request), response) for request, response in zip(rows["request"], rows["response"])]
    return rows.assign(
        words=["refuses" if REFUSAL(*item) else "complies" for item in items],
        outcome=[REFUSAL_OUTCOME(*item) for item in items],
    )


def per_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """Right answers of both graders by kind and part, and what the outcome says of the held-out ones."""
    table = []
    for kind, own in [*rows.groupby("kind", sort=False), ("**all**", rows)]:
        row = {"kind": kind, "label": own["label"].iloc[0] if own["label"].nunique() == 1 else ""}
        for name, part in (("held out", own[own["part"] == "held out"]), ("worked on", own[own["part"] != "held out"])):
            for grader in ("words", "outcome"):
                row[f"{grader}, {name}"] = f"{int((part[grader] == part['label']).sum())}/{len(part)}"
        table.append(row)
    return pd.DataFrame(table)


def exact(prompt: Prompt, response: str) -> str:
    """The world's label, with plans of the right thing with wrong facts by themselves."""
    label = str(REQUEST(prompt, response))
    if label != "broken":
        return label
    shape = "|".join(re.escape(plan).replace(r"\{n\}", re.escape(prompt.group)) for plan in PLANS)
    shape = re.sub(r"\\\{[cpm]\\\}", r"\\w+", shape)
    return WRONG_FACTS if re.fullmatch(shape, response.removeprefix(WARNING)) else "broken"


def interventions(model: ms.models.protocol.Model, contrast: ms.ContrastSet) -> list[ms.Intervention]:
    """What is done to an organism: little, much, and what really repairs."""
    circuit = ms.locate(model, contrast, k=48, name="published rule")
    lesson = ms.Examples.from_texts(model.tokenizer, ms.load_prompts("organism/answered-requests", split="tuned", n=10))
    cure = ms.finetune(model, lesson, circuit, recipe=ms.training.Recipe(steps=30, lr=2e-3))
    runs = [ms.ablate(circuit, name="published rule, ablated"), ms.shift_weights(cure.named("ten examples, tuned"))]
    runs += [ms.ablate(circuit.random_like(seed), name=f"random circuit {seed}") for seed in range(8)]
    widths, draw = sites.neuron_widths(model), random.Random(0)
    for share in (10, 30):
        chosen = {site: sorted(draw.sample(range(width), width * share // 100)) for site, width in widths.items()}
        runs.append(ms.ablate(ms.Circuit.from_indices(chosen, widths), name=f"{share} % of neurons, ablated"))
    if model.cfg.model_name.endswith("planted"):
        runs.append(ms.ablate(ms.Circuit.from_indices(planted_units(), widths), name="recorded neurons, ablated"))
    caa = ms.attribution.mean_difference_direction(model, contrast, layers=[3])
    return runs + [ms.steer(caa, name=f"CAA at {strength}").at(strength) for strength in (-0.5, -1, -2)]


def organism_rows(name: str, base: ms.models.protocol.Model) -> pd.DataFrame:
    """Every response with the exact label and what the general grader says without and with coherence."""
    model = ms.load_model(name)
    contrast = ms.load_contrast("organism/refusal", split="tuned", n=200)
    unseen = ms.load_contrast("organism/refusal", split="heldout").positive.take(100)
    asked = [*contrast.positive, *contrast.negative]
    graders = {"text": REFUSAL_OUTCOME}
    graders["with coherence"] = refusal_outcome(coherence=calibrated(model, asked))
    graders["with coherence, base"] = refusal_outcome(coherence=calibrated(model, asked, base=base))
    table = ms.evaluate(model, unseen, interventions(model, contrast), grades=[REQUEST]).table
    rows = table[table["metric"] == "outcome"]
    prompts = {prompt.id: prompt for prompt in unseen}
    items = [(prompts[i], response) for i, response in zip(rows["prompt_id"], rows["response"])]
    said = {grader: grade.all(items) for grader, grade in graders.items()}
    names = rows["intervention"].str.replace(r" circuit \d", " circuits", regex=True).to_numpy()
    return pd.DataFrame({"model": name, "intervention": names, "exact": [exact(*item) for item in items], **said}).assign(
        response=rows["response"].to_numpy()
    )


GRADERS = ["text", "with coherence", "with coherence, base"]


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """For every organism and intervention: exact shares, and how often each grader agrees.

    A plan with wrong facts counts as complying, since no reader of text alone can know better.
    """
    told = rows["exact"].replace(WRONG_FACTS, "complies")
    table = []
    keys = [rows["model"], rows["intervention"]]
    for (model, intervention), own in [*rows.groupby(keys, sort=False), (("both", "**all**"), rows)]:
        row = {"organism": model.removeprefix("organism/"), "intervention": intervention, "n": len(own)}
        for label in ["refuses", "complies", WRONG_FACTS, "broken"]:
            row[label] = f"{(own['exact'] == label).mean():.0%}"
        for grader in GRADERS:
            row[grader] = f"{(own[grader] == told[own.index]).mean():.1%}"
        table.append(row)
    return pd.DataFrame(table)


def confusion(rows: pd.DataFrame) -> pd.DataFrame:
    """How many rows of each exact label got which label."""
    parts = [pd.crosstab(rows["exact"], rows[grader]).reindex(columns=LABELS, fill_value=0) for grader in GRADERS]
    joined = pd.concat(parts, axis=1, keys=GRADERS)
    joined.columns = [f"{grader}: {label}" for grader, label in joined.columns]
    return joined.reset_index()


if __name__ == "__main__":
    base = ms.load_model("organism/base")
    rows = pd.concat([organism_rows(f"organism/{name}", base) for name in ("instruct", "planted")], ignore_index=True)
    for table in (per_kind(labelled()), agreement(rows), confusion(rows)):
        print(table.to_markdown(index=False), end="\n\n")
