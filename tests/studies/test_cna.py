"""The CNA study: tables agree with the rows, nothing leaks, an interrupted study continues."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from support.cna import LEAST, SETTINGS, lighten, little_data

from mechsurgery.evaluation import jobs
from mechsurgery.evaluation.statistics import clustered_interval, mean_interval
from mechsurgery.grading.world import REQUEST
from mechsurgery.models import load_model
from mechsurgery.prompts.chat import encode
from mechsurgery.studies.cna import bench, methods, run, study_data
from mechsurgery.studies.cna.published import ANCHORS, anchor
from mechsurgery.studies.cna.study import BEST, CLAIMS, RANDOM, TABLE_1, TABLE_2


@pytest.fixture(autouse=True, scope="module")
def light():
    with pytest.MonkeyPatch.context() as patch:
        lighten(patch)
        yield


@pytest.fixture(scope="module")
def instruct():
    return load_model("organism/instruct")


@pytest.fixture(scope="module")
def little():
    return little_data()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("cna")


@pytest.fixture(scope="module")
def study(out, instruct):
    data = study_data(SETTINGS)
    data = replace(data, published=(data.published[0], data.published[1].take(9)))
    return run(SETTINGS, data, instruct=instruct, base=load_model("organism/base"), out=out)


def table(study, prefix):
    (name,) = (key for key in study.tables if key.startswith(prefix))
    return study.tables[name]


def test_the_tables_are_what_the_rows_say(study):
    rows = study.results["corrected"].table
    rows = rows[(rows["metric"] == "outcome") & (rows["intervention"] != methods.CAA_MLP)]
    shown = rows[rows["prompt_set"] == "behaviour"]
    after = shown[(shown["intervention"] == methods.CNA) & (shown["toward"] == -1)]
    first = study.tables[TABLE_1].set_index(["mode", "prompts", "response"])
    beside = study.tables[RANDOM].set_index(["mode", "prompts", "response"])
    controls = rows[(rows["control_of"] == methods.CNA) & (rows["prompt_set"] == "behaviour, controls")]
    assert controls["intervention"].nunique() == 3
    assert set(controls["toward"]) == {-1}
    for label in REQUEST.outcome:
        row = first.loc[("corrected", "behaviour", label)]
        assert row["n"] == len(after) == 6
        assert row["k"] == 9
        assert row["of all neurons %"] == pytest.approx(100 * 9 / 3072)
        given = (after["label"] == label).astype(float)
        assert row["after %"] == pytest.approx(100 * given.mean())
        low, high = clustered_interval(given, after["group"].to_numpy())
        assert row["after 95 %"] == f"[{100 * low:.1f}, {100 * high:.1f}]"
        shares = (controls["label"] == label).groupby(controls["intervention"]).mean()
        random = beside.loc[("corrected", "behaviour", label)]
        assert (random["n"], random["random circuits"]) == (4, 3)
        assert random[["min %", "mean %", "max %"]].tolist() == pytest.approx(
            [100 * shares.min(), 100 * shares.mean(), 100 * shares.max()]
        )
        assert row["random circuits %"].startswith(f"{100 * shares.mean():.1f} [")
    assert first.loc[("corrected", "behaviour", "refuses"), "before %"] == pytest.approx(100)
    parts = ("Claims", "Table 2", "Table 3", "Table 4", "Judges", "Localisation", "Sensitivity", "Exchange", "Layer")
    assert all(len(table(study, prefix)) for prefix in parts[:-1])
    judges = table(study, "Judges")
    assert judges["n"].nunique() == 1
    asked = {"judge_outcome", "judge_opening", "judge_phrases", "judge_first_token"}
    assert set(judges["judge"]) | set(judges["other"]) == asked


def test_every_method_is_tried_in_both_directions_beside_one_baseline(study):
    rows = study.results["corrected"].table
    for name, part in rows[(rows["kind"] != "baseline") & rows["control_of"].isna()].groupby("intervention"):
        assert part["toward"].min() <= -1 < 1 <= part["toward"].max(), name
    keys = ["metric", "prompt_set", "prompt_id", "seed"]
    assert not rows[rows["kind"] == "baseline"].duplicated(keys).any()
    assert not rows.duplicated([*keys, "intervention", "strength"]).any()
    kinds = rows.loc[rows["control_of"].isna(), "kind"].unique()
    assert set(kinds) == {"baseline", "scaling", "mean ablation", "steering", "projection"}
    full = study.tables[TABLE_2]
    assert set(full.loc[full["mode"] == "corrected", "toward"]) == {0, -1}
    published = full[full["mode"] == "as published"].set_index("method")["toward"]
    assert published.to_dict() == {"baseline": 0, "CNA": -1, methods.CAA_MLP: 1}


def test_the_two_modes_locate_as_they_say(study):
    circuit, published = study.artefacts["instruct"], study.artefacts["instruct, as published"]
    assert not circuit.members() & study.artefacts["universal neurons"].members()
    assert len(circuit) == round(0.003 * sum(circuit.widths.values()))
    assert len(published) == 20
    layers = published.per_layer()
    assert not set(layers.loc[layers["n"] > 0, "layer"]) & {0, 1}


def test_published_caa_adds_what_the_behaviour_has_more_of(instruct):
    data = study_data(SETTINGS)
    whole = bench.bench_of(instruct, None, data, SETTINGS)
    published = methods.locate_published(whole)
    caa = next(one for one in methods.as_published(whole, published).tried if one.kind == "steering")
    site, vector = next(iter(published.mlp_out.vectors.items()))
    assert caa.strength > 0
    assert float({edit.site: edit.change.offset for edit in caa.edits}[site] @ vector) > 0
    residual = methods.locate_all(whole).residual
    steps, last = methods.increments(residual), list(residual.vectors.values())[-1]
    assert (sum(steps.vectors.values()) - last).abs().max() < 1e-4


def test_mean_ablation_puts_the_means_of_all_positions_it_replaces(instruct, little):
    """Means of last tokens alone are no activations of the other positions, where they are put as well."""
    settings = replace(LEAST, n_discovery=8)
    whole = bench.bench_of(instruct, None, little, settings)
    located = methods.locate_all(whole)
    run = next(one for one in methods.corrected(whole, located).tried if one.kind == "mean ablation")
    seen = {edit.site: [] for edit in run.edits}
    watch = [(site, lambda a, hook: seen[hook.name].append(a[0].double())) for site in seen]
    for ids in encode(instruct.tokenizer, list(little.discovery.negative)):
        with torch.no_grad(), instruct.hooks(fwd_hooks=watch):
            instruct(torch.tensor([ids]))
    for edit in run.edits:
        expected = torch.cat(seen[edit.site]).mean(0)[edit.change.indices].float()
        torch.testing.assert_close(edit.change.offset, expected, atol=1e-5, rtol=1e-4)


def test_layers_and_strengths_are_chosen_on_the_validation_split(study):
    layers, strengths = table(study, "Layer choice"), table(study, "Layer and strength")
    tried = study.results["corrected"].table["intervention"].unique()
    for by, chosen in (("method", layers), ("intervention", strengths)):
        for _, part in chosen.groupby(by):
            assert part["chosen"].sum() == 1
            best = part[part["chosen"]].iloc[0]
            assert best["gain"] == pytest.approx(part["gain"].max())
            assert best["gain"] == pytest.approx(best["well"] - best["lost"])
            assert best["kl"] == part.loc[part["gain"].round(9) == round(best["gain"], 9), "kl"].min()
            assert part["n"].unique().tolist() == [2]
            assert set(part["toward"]) <= {-2, -1, -0.75, -0.5, -0.25}
    assert set(layers["method"]) == {methods.CAA_ONE, methods.CAA_END, methods.DIRECTIONAL, methods.AFFINE_END}
    assert set(layers.loc[layers["chosen"], "method"]) <= set(tried)
    for (_, best), by in zip(study.tables[BEST].groupby("chosen by"), ("chosen", "most")):
        expected = strengths[strengths[by]].set_index("intervention")["toward"].map("{:g}".format)
        assert best.set_index("method")["toward"].to_dict() == expected.to_dict()
    most = strengths[strengths["most"]].set_index("intervention")["well"]
    assert most.to_dict() == strengths.groupby("intervention")["well"].max().to_dict()


def test_nothing_that_only_breaks_the_text_is_on_the_front(study):
    points = table(study, "Trade-off")
    front = points[points["front"]]
    assert len(front)
    assert (front.loc[front["benefit"] == 0, "damage"] == 0).all()


def test_the_report_stands_alone(study, out):
    page = (out / "report.html").read_text()
    assert "<script src" not in page
    assert "What did not hold" in page
    assert "nothing here is a finding about real models" in page
    names = {path.name for path in (out / "tables").iterdir()}
    assert {f"table_{i}.{ending}" for i in range(1, 5) for ending in ("csv", "md", "tex")} <= names
    assert (out / "circuits" / "instruct.safetensors").is_file()


def test_an_interrupted_study_continues_and_a_changed_one_finds_nothing_stale(instruct, little, tmp_path, monkeypatch):
    perform, calls, stop = jobs.perform, [], [None]

    def counted(*args, **options):
        calls.append(1)
        if len(calls) == stop[0]:
            raise KeyboardInterrupt
        return perform(*args, **options)

    monkeypatch.setattr(jobs, "perform", counted)
    undisturbed = run(LEAST, little, instruct=instruct)
    total, stop[0] = len(calls), len(calls) + 3
    with pytest.raises(KeyboardInterrupt):
        run(LEAST, little, instruct=instruct, out=tmp_path)
    again = run(LEAST, little, instruct=instruct, out=tmp_path)
    assert len(calls) == 2 * total + 1, "something is measured twice or not at all"
    for name, expected in undisturbed.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], expected)
    changed = run(replace(LEAST, max_new_tokens=3), little, instruct=instruct, out=tmp_path)
    rows = changed.results["as published"].table
    assert rows.loc[rows["metric"] == "tokens", "value"].max() == 3


def test_several_models_make_one_table(little, tmp_path):
    whole = run(replace(LEAST, instruct=("organism/instruct", "organism/planted")), little, out=tmp_path)
    first = whole.tables[TABLE_1]
    assert first["model"].unique().tolist() == ["organism/instruct", "organism/planted"]
    shown = first[(first["prompts"] == "behaviour") & (first["response"] == "refuses")]
    over = table(whole, "Over models").set_index("response")
    assert over["models"].unique().tolist() == [2]
    assert over.loc["refuses", "mean reduction %"] == pytest.approx(shown["reduction %"].mean())
    assert tuple(over.loc["refuses", ["reduction % low", "reduction % high"]]) == mean_interval(shown["reduction %"])
    assert over["mean after %"].sum() == pytest.approx(100)
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "organism_planted" / "report.html").is_file()


def test_anchors_are_found_by_model_name():
    assert anchor("meta-llama/Llama-3.2-1B-Instruct")[0] == "Llama-3.2-1B"
    assert anchor("models/Qwen2.5-7B-Instruct")[0] == "Qwen2.5-7B"
    assert anchor("Qwen/Qwen2.5-7B") is None
    assert anchor("meta-llama/Llama-3.2-11B-Instruct") is None
    assert anchor("organism/instruct") is None
    assert len(ANCHORS) == 8


def test_claims_of_a_study_have_one_verdict_each(study):
    verdicts = study.tables[CLAIMS]
    assert not verdicts.duplicated(["claim", "mode"]).any()
    assert (
        verdicts.set_index(["mode", "claim"])["verdict"].to_dict()[
            "corrected", "the circuit sits in late layers: most of it in the last tenth"
        ]
        == "not measurable"
    )
