"""Figures: their data equal the tables', text is escaped, large models stay light, exports report failures."""

import json
import sys

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from support.ranks import ranks
from support.summaries import summary

from mechsurgery import UnitScores, plots
from mechsurgery.errors import InputError
from mechsurgery.plots.theme import unwrapped

export_module = sys.modules["mechsurgery.plots.export"]


def make_scores(seed, layers=4, width=200, rule="difference"):
    generator = torch.Generator().manual_seed(seed)
    return UnitScores(
        {f"blocks.{i}.mlp.hook_post": torch.randn(width, generator=generator) * (i + 1) for i in range(layers)}, rule
    )


def test_layer_distribution_shows_quantiles_and_every_circuit_neuron():
    scores = make_scores(0)
    circuit = scores.top(k=15)
    figure = plots.layer_distribution(scores, circuit)
    points = next(t for t in figure.data if "(15)" in (t.name or ""))
    assert sorted(points.y) == pytest.approx(sorted(circuit.to_frame()["score"]))
    bars = figure.data[-1]
    assert list(bars.y) == circuit.per_layer()["n"].tolist()
    middle = next(t for t in figure.data if t.name == "50% of neurons")
    values = scores.scores["blocks.2.mlp.hook_post"].numpy()
    assert [middle.y[6], middle.y[7]] == pytest.approx(list(np.quantile(values, [0.25, 0.75])), rel=1e-5)


def test_half_a_million_neurons_make_a_light_figure():
    big = UnitScores({f"blocks.{i}.mlp.hook_post": torch.randn(15_000) for i in range(33)}, "difference")
    circuit = big.top(fraction=0.001)
    assert len(plots.layer_distribution(big, circuit).to_json()) < 1_000_000
    assert len(plots.neuron_scatter(big, big, circuits={"a": circuit, "b": circuit}).to_json()) < 1_000_000


def test_scatter_sorts_members_into_shared_and_own():
    a, b = make_scores(0), make_scores(1)
    circuits = {"base": a.top(k=30), "instruct": b.top(k=30)}
    figure = plots.neuron_scatter(a, b, circuits=circuits)
    shared = len(circuits["base"] & circuits["instruct"])
    assert [len(t.x) for t in figure.data[1:]] == [shared, 30 - shared, 30 - shared]
    assert len(figure.data[0].x) == 800 - (60 - shared)  # one neuron is one point
    assert f"{shared} of 30 and 30" in unwrapped(figure.layout.title.text)


def test_overlap_and_profile_are_the_circuits_numbers():
    a, b = make_scores(0).top(k=30), make_scores(1).top(k=30)
    bar, chance = plots.overlap({"a": a, "b": b}).data
    assert (list(bar.x), list(chance.x)) == ([a.overlap(b)["shared"]], [a.overlap(b)["expected_shared"]])
    three = plots.overlap({"a": a, "b": b, "c": a}).data[0]
    assert list(three.x) == [a.overlap(b)["shared"], 30, a.overlap(b)["shared"]]
    assert list(plots.circuit_profile({"a": a}).data[0].y) == a.per_layer()["share"].tolist()


def test_histogram_ranks_and_tokens():
    values = {"positive": np.random.default_rng(0).normal(size=50), "negative": np.zeros(20)}
    figure = plots.activation_histogram(values)
    assert [sum(t.y) for t in figure.data] == pytest.approx([1, 1])
    scores = {"difference": make_scores(0), "effect_size": make_scores(1, rule="effect_size")}
    figure = plots.score_ranks(ranks(scores, "blocks.1.mlp.hook_post", 3))
    assert [line.x[1] for line in figure.data] == [s.rank_of("blocks.1.mlp.hook_post", 3) + 1 for s in scores.values()]
    tokens = plots.promoted_tokens(pd.DataFrame({"token": [" a", "a", "<b>", "a"], "logit": [1.0, 0.5, -2.0, 0.2]}))
    assert list(tokens.layout.yaxis.ticktext) == ["␣a", "a", "a", "&lt;b&gt;"]
    assert list(tokens.data[0].x) == [1.0, 0.5, 0.2, -2.0]


def test_text_of_users_is_escaped_everywhere():
    bad = "<a href='javascript:1'>x</a>"
    circuits = {bad: make_scores(0).top(k=3, name=bad), "b": make_scores(1).top(k=3)}
    scores = {name: make_scores(0, rule=bad) for name in circuits}
    figures = [
        plots.curves(summary(bad), [("refusal", "harmful")]),
        plots.bars(summary(bad), [("refusal", "harmful")]),
        plots.trade_off(summary(bad), benefit=("refusal", "harmful"), damage=("kl", "neutral")),
        plots.circuit_profile(circuits),
        plots.overlap(circuits),
        plots.layer_distribution(scores[bad], circuits[bad], title=bad),
        plots.neuron_scatter(*scores.values(), circuits=circuits),
        plots.score_ranks(ranks(scores, "blocks.0.mlp.hook_post", 0)),
        plots.activation_histogram({bad: [1.0, 2.0]}, title=bad),
        plots.promoted_tokens(pd.DataFrame({"token": [bad], "logit": [1.0]})),
        plots.precision_recall(pd.DataFrame({"rule": [bad], "k": [1], "precision": [1.0], "recall": [1.0]})),
    ]
    for figure in figures:
        assert "<a href" not in json.dumps(json.loads(figure.to_json()), ensure_ascii=False)


def test_circuits_and_scores_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="two circuits"):
        plots.overlap({"a": make_scores(0).top(k=1)})
    with pytest.raises(InputError, match="different hook points"):
        plots.neuron_scatter(make_scores(0), make_scores(0, layers=3))


def test_export_writes_html_and_json_and_reports_what_it_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "static_export_problem", lambda: "no browser")
    figure = plots.circuit_profile({"a": make_scores(0).top(k=5)})
    report = plots.export(figure, tmp_path / "f", plotlyjs="directory")
    assert sorted(path.name for path in report.written) == ["f.html", "f.json"]
    assert report.skipped == {"svg": "no browser", "png": "no browser"}
    assert (tmp_path / "plotly.min.js").is_file()
    assert json.loads((tmp_path / "f.json").read_text())["data"][0]["type"] == "bar"
    with pytest.raises(InputError, match="'gif'"):
        plots.export(figure, tmp_path / "f", formats=("gif",))


def test_a_figure_that_cannot_be_drawn_is_reported_and_not_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "static_export_problem", lambda: None)

    def broken(self, **_):
        raise RuntimeError("the browser is gone")

    monkeypatch.setattr(go.Figure, "to_image", broken)
    report = plots.export(go.Figure(), tmp_path / "f", formats=("png",))
    assert report.skipped == {"png": "the browser is gone"}


def test_static_pictures_where_a_browser_engine_works(tmp_path):
    problem = plots.static_export_problem()
    if problem is not None:
        pytest.skip(problem)
    report = plots.export(plots.curves(summary(), [("refusal", "harmful")]), tmp_path / "f", formats=("svg", "png"))
    assert [path.suffix for path in report.written] == [".svg", ".png"]
    header = (tmp_path / "f.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") == 3 * 312  # one column of a paper at 288 dots an inch
