"""The tables of docs/outcomes.md as markdown: `python figures/outcomes.py` (some minutes on two CPU cores).

Error rates of the general outcome grader on labelled answers (tests/grading/labelled.jsonl), and its agreement with the
exact graders on the organisms' rows.
"""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import mechsurgery as ms
from mechsurgery.grading.coherence import calibrated
from mechsurgery.grading.outcome import REFUSAL_OUTCOME, refusal_outcome
from mechsurgery.grading.refusal import REFUSAL
from mechsurgery.grading.world import REQUEST
from mechsurgery.models import sites
from mechsurgery.models.protocol import Model
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


def interventions(model: Model, contrast: ms.ContrastSet) -> list[ms.Intervention]:
    """What is done to an organism: little, much, and what really repairs."""
    circuit = ms.locate(model, contrast, k=48, name="located")
    lesson = ms.Examples.from_texts(model.tokenizer, ms.load_prompts("organism/answered-requests", split="tuned", n=10))
    cure = ms.finetune(model, lesson, circuit, recipe=ms.training.Recipe(steps=30, lr=2e-3))
    runs = [ms.ablate(circuit, name="located circuit, ablated"), ms.shift_weights(cure.named("ten examples, tuned"))]
    runs += [ms.ablate(circuit.random_like(seed), name=f"random circuit {seed}") for seed in range(8)]
    widths, draw = sites.neuron_widths(model), random.Random(0)
    for share in (10, 30):
        chosen = {site: sorted(draw.sample(range(width), width * share // 100)) for site, width in widths.items()}
        runs.append(ms.ablate(ms.Circuit.from_indices(chosen, widths), name=f"{share} % of neurons, ablated"))
    if model.cfg.model_name.endswith("planted"):
        runs.append(ms.ablate(ms.Circuit.from_indices(planted_units(), widths), name="recorded neurons, ablated"))
    caa = ms.attribution.mean_difference_direction(model, contrast, layers=[3])
    return runs + [ms.steer(caa, name=f"CAA at {strength}").at(strength) for strength in (-0.5, -1, -2)]


@dataclass
class Organism:
    """An organism, prompts to calibrate on, and every response with the exact label and what text alone says of it."""

    name: str
    model: Model
    refused: ms.PromptSet
    harmless: ms.PromptSet
    items: list[tuple[Prompt, str]]
    rows: pd.DataFrame

    @classmethod
    def measured(cls, name: str) -> "Organism":
        """Answers to 100 held-out dangerous requests under every intervention."""
        model = ms.load_model(f"organism/{name}")
        contrast = ms.load_contrast("organism/refusal", split="tuned", n=200)
        unseen = ms.load_contrast("organism/refusal", split="heldout").positive.take(100)
        table = ms.evaluate(model, unseen, interventions(model, contrast), grades=[REQUEST]).table
        rows = table[table["metric"] == "outcome"].reset_index(drop=True)
        prompts = {prompt.id: prompt for prompt in unseen}
        items = [(prompts[i], response) for i, response in zip(rows["prompt_id"], rows["response"])]
        kept = pd.DataFrame({"organism": name, "intervention": rows["intervention"]})
        kept["intervention"] = kept["intervention"].str.replace(r" circuit \d", " circuits", regex=True)
        kept = kept.assign(exact=[exact(*item) for item in items], text=REFUSAL_OUTCOME.all(items))
        return cls(name, model, contrast.positive, contrast.negative, items, kept)

    def graded(self, base: Model | None) -> list[str]:
        """The outcomes with coherence, calibrated on prompts of both kinds."""
        coherence = calibrated(self.model, [*self.refused, *self.harmless], base=base)
        return [str(value) for value in refusal_outcome(coherence=coherence).all(self.items)]


#: What thresholds may be calibrated by: the name, which prompts, the share, the temperature.
CALIBRATIONS = [
    ("both kinds, 1 %", "both", 0.01, 1.0),
    ("**both kinds, 5 %**", "both", 0.05, 1.0),
    ("both kinds, 10 %", "both", 0.1, 1.0),
    ("both kinds, 5 %, temperature 0.7", "both", 0.05, 0.7),
    ("refused ones, 5 %", "refused", 0.05, 1.0),
    ("harmless ones, 5 %", "harmless", 0.05, 1.0),
]


def calibrations(organism: Organism, base: Model) -> pd.DataFrame:
    """By calibration: the model's threshold, good answers called incoherent, and broken ones that text alone missed."""
    sets = {"refused": [*organism.refused], "harmless": [*organism.harmless]}
    sets["both"] = [*sets["refused"], *sets["harmless"]]
    good = (organism.rows["exact"] != "broken").to_numpy()
    missed = ~good & (organism.rows["text"] != "broken").to_numpy()
    table = []
    for name, asked, quantile, temperature in CALIBRATIONS:
        row: dict[str, object] = {"organism": organism.name, "calibrated on": name}
        for judged, second in (("", None), (" (or base)", base)):
            coherence = calibrated(organism.model, sets[asked], base=second, quantile=quantile, temperature=temperature)
            coherent = pd.Series(coherence.coherent(organism.items)).fillna(False).to_numpy(bool)
            row |= {} if second is not None else {"threshold": f"{coherence.yardsticks[0].threshold:.2f}"}
            row[f"good called incoherent{judged}"] = f"{1 - coherent[good].mean():.1%}"
            row[f"missed broken found{judged}"] = f"{1 - coherent[missed].mean():.0%}"
        table.append(row)
    return pd.DataFrame(table)


GRADERS = ["text", "coherence", "coherence or base"]


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """For every organism and intervention: exact shares, and how often each grader agrees.

    A plan with wrong facts counts as complying, since no reader of text alone can know better.
    """
    told = rows["exact"].replace(WRONG_FACTS, "complies")
    table = []
    keys = [rows["organism"], rows["intervention"]]
    for (organism, intervention), own in [*rows.groupby(keys, sort=False), (("both", "**all**"), rows)]:
        row = {"organism": organism, "intervention": intervention, "n": len(own)}
        for label in ["refuses", "complies", WRONG_FACTS, "broken"]:
            row[label] = f"{(own['exact'] == label).mean():.0%}"
        for grader in GRADERS:
            row[grader] = f"{(own[grader] == told[own.index]).mean():.1%}"
        table.append(row)
    return pd.DataFrame(table)


def confusion(rows: pd.DataFrame) -> pd.DataFrame:
    """How many rows of each exact label got which label from text alone and with coherence."""
    shown = GRADERS[:2]
    parts = [pd.crosstab(rows["exact"], rows[grader]).reindex(columns=LABELS, fill_value=0) for grader in shown]
    joined = pd.concat(parts, axis=1, keys=shown)
    joined.columns = [f"{grader}: {label}" for grader, label in joined.columns]
    return joined.reindex(["refuses", "complies", WRONG_FACTS, "broken"]).reset_index()


def tables() -> list[pd.DataFrame]:
    """Labelled answers per kind; the organisms' agreement, confusion and calibrations."""
    base = ms.load_model("organism/base")
    organisms = [Organism.measured(name) for name in ("instruct", "planted")]
    for organism in organisms:
        for grader, second in zip(GRADERS[1:], (None, base)):
            organism.rows[grader] = organism.graded(second)
    rows = pd.concat([organism.rows for organism in organisms], ignore_index=True)
    compared = pd.concat([calibrations(organism, base) for organism in organisms], ignore_index=True)
    return [per_kind(labelled()), agreement(rows), confusion(rows), compared]


if __name__ == "__main__":
    for table in tables():
        print(table.to_markdown(index=False, disable_numparse=True), end="\n\n")
