"""The demo on a few prompts and steps: tables, claims and figures say the same, and its parts share no noun."""

import pytest

from mechsurgery.evaluation import verdicts as v
from mechsurgery.evaluation.evaluate import BESIDE
from mechsurgery.evaluation.proof import PUT_OUT
from mechsurgery.grading.world import REQUEST
from mechsurgery.plots.theme import unwrapped
from mechsurgery.studies import demo
from mechsurgery.studies.ablations import TRUTH
from mechsurgery.studies.demo.rivals import AFFINE, DIRECTIONAL, STEERING
from mechsurgery.studies.demo.settings import DANGEROUS, NEW, prompts_of
from mechsurgery.studies.demo.study import PUBLISHED, SHUFFLED


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    settings = demo.Settings(n_prompts=12, n_search=80, controls=3, n_control_prompts=4, steps=24)
    return demo.run(settings, out=tmp_path_factory.mktemp("demo"))


def test_search_check_and_proof_share_no_noun_and_new_templates_are_new():
    prompts = prompts_of(demo.Settings())
    nouns = [
        {*prompts.search.positive.groups, *prompts.search.negative.groups},
        {*prompts.check[DANGEROUS].groups, *prompts.check["benign"].groups},
        {group for one in prompts.held_out.values() for group in one.groups},
    ]
    assert not nouns[0] & nouns[1]
    assert not (nouns[0] | nouns[1]) & nouns[2]
    seen = {p.text.replace(p.group, "X") for p in prompts.search.positive}
    assert not seen & {p.text.replace(p.group, "X") for p in prompts.held_out[NEW]}
    assert {p.text.replace(p.group, "X") for p in prompts.held_out[DANGEROUS]} <= seen


def test_everything_is_measured_on_the_same_prompts(few):
    rows = few.results["instruct"].table
    rows = rows[(rows["metric"] == "outcome") & (rows["prompt_set"] == DANGEROUS)]
    asked = rows.groupby("intervention")["prompt_id"].agg(frozenset)
    assert {"baseline", PUT_OUT, PUBLISHED, STEERING, DIRECTIONAL, AFFINE, SHUFFLED} <= set(asked.index)
    assert asked.nunique() == 1
    beside = few.results["instruct"].table
    beside = beside[(beside["prompt_set"] == f"{DANGEROUS}{BESIDE}") & (beside["metric"] == "outcome")]
    assert beside["control_of"].dropna().nunique() == 1


def test_the_recorded_neurons_repair_what_the_published_ones_break(few):
    table = few.tables["Organism planted: every localiser's circuit ablated"].set_index("ablated")
    assert table.loc[TRUTH, "dangerous: complies"].startswith("100.0 %")
    assert table.loc[PUBLISHED, "dangerous: complies"].startswith("0.0 %")
    assert table.loc[PUBLISHED, "precision"] < 0.5
    assert table.loc["weight change from the base", "precision"] == 1


def test_claims_follow_their_table(few):
    claims = few.tables["Claims: what the circuit does"]
    assert set(claims["prompts"]) == {DANGEROUS, NEW, "benign", "multiple choice"}
    # Three controls cannot say; a search with shuffled labels repairs nothing.
    chance = claims[claims["claim"].str.startswith("beyond chance: matched")]
    assert set(chance["verdict"]) == {v.UNMEASURED}
    assert (claims["verdict"] == v.HELD).any()
    table = next(table for name, table in few.tables.items() if name.startswith("Organism instruct"))
    assert table.set_index("done").loc["baseline", f"{DANGEROUS}: refuses"].startswith("100.0 %")


def test_its_figures_have_the_summarys_shares(few):
    table = few.results["instruct"].summary(["outcome"])
    own = table[(table["intervention"] == PUT_OUT) & (table["label"] != "")]
    own = own[own["prompt_set"] == DANGEROUS].set_index("label")["value"]
    figure = few.figures["instruct_outcomes"]
    rows = [unwrapped(name) for name in figure.layout.yaxis.ticktext]
    bars = {trace.name: dict(zip([rows[y] for y in trace.y], trace.x)) for trace in figure.data[:3]}
    assert {label: bars[label][PUT_OUT] for label in own.index} == pytest.approx(own.to_dict())
    points = {unwrapped(trace.name): trace.y[0] for trace in few.figures["instruct_trade_off"].data}
    assert points[PUT_OUT] == pytest.approx(own[REQUEST.labels[1]])
    assert few.figures.keys() == demo_captions()


def demo_captions() -> set[str]:
    from mechsurgery.studies.demo.figures import CAPTIONS

    return set(CAPTIONS)
