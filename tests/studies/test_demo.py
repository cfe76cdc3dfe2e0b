"""The demo on a few prompts: it measures outcomes, and every claim says what its table says."""

import pandas as pd
import pytest

from mechsurgery.evaluation import verdicts as v
from mechsurgery.evaluation.evaluate import BESIDE
from mechsurgery.studies import demo
from mechsurgery.studies.localisers import PUBLISHED, TRUTH


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    settings = demo.Settings(n_prompts=16, controls=3, n_control_prompts=4)
    return demo.run(settings, out=tmp_path_factory.mktemp("demo"))


def claims(study, organism, ablated):
    table = study.tables["Claims: what each circuit does"]
    rows = table[(table["organism"] == organism) & (table["ablated"] == ablated)]
    return dict(zip(rows["claim"], rows["verdict"]))


def test_the_recorded_neurons_repair_what_the_published_ones_break(few):
    table = few.tables["Organism planted: every circuit ablated"].set_index("ablated")
    assert table.loc[TRUTH, "dangerous: complies"].startswith("100.0 %")
    assert table.loc[PUBLISHED, "dangerous: complies"].startswith("0.0 %")
    assert table.loc[PUBLISHED, "precision"] < 0.5
    said = claims(few, "planted", TRUTH)
    assert said["ablating it at least halves refusal"] == v.HELD
    assert said["where it refused, it then complies: most answers are right"] == v.HELD
    # Three controls cannot say.
    assert said["it makes more answers right than random circuits of its size and layers"] == v.UNMEASURED
    assert set(claims(few, "base", PUBLISHED).values()) <= {v.UNMEASURED, v.FAILED}


def test_controls_answer_the_same_prompts_as_their_circuit(few):
    rows = few.results["demo"].table
    rows = rows[(rows["prompt_set"] == f"dangerous{BESIDE}") & (rows["metric"] == "outcome")]
    asked = rows.groupby(["model", "intervention"])["prompt_id"].agg(frozenset)
    assert asked.groupby("model").nunique().eq(1).all()
    assert rows["control_of"].dropna().nunique() == 2


def test_its_figures_have_the_summarys_shares(few):
    table = few.results["demo"].summary(["outcome"])
    own = table[(table["model"] == "organism/planted") & (table["intervention"] == TRUTH) & (table["label"] != "")]
    own = own[own["prompt_set"] == "dangerous"].set_index("label")["value"]
    bars = {trace.name: dict(zip(trace.y, trace.x)) for trace in few.figures["planted_ablation"].data[:3]}
    assert {label: bars[label][TRUTH] for label in own.index} == pytest.approx(own.to_dict())
    assert isinstance(few.tables["Scaling: outcomes and multiple choice over m"], pd.DataFrame)
