"""Figures: their data equal the tables', text is escaped, large models stay light, exports report failures."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from mechsurgery import Circuit, UnitScores, plots
from mechsurgery.errors import InputError

export_module = sys.modules["mechsurgery.plots.export"]


def make_scores(seed, layers=4, width=200, rule="difference"):
    generator = torch.Generator().manual_seed(seed)
    return UnitScores(
        {f"blocks.{i}.mlp.hook_post": torch.randn(width, generator=generator) * (i + 1) for i in range(layers)}, rule
    )


def summary(name="circuit <b>x</b>"):
    rows = []
    for metric in ("refusal", "quality", "choice"):
        prompt_set = "questions" if metric == "choice" else "dangerous"
        rows.append(("baseline", "baseline", 1.0, metric, 100, 0.9, 0.8, 0.95, prompt_set))
        rows += [(name, "circuit", m, metric, 100, 0.4 * m, 0.3 * m, 0.45 * m, prompt_set) for m in (0.0, 0.5, 2.0)]
        rows += [
            (f"random like {name}, seed {s}", "random", 0.0, metric, 100, 0.8, 0.7, 0.9, prompt_set) for s in (0, 1)
        ]
    return pd.DataFrame(rows, columns="intervention kind m metric n value low high prompt_set".split())


def test_layer_distribution_shows_quantiles_and_every_circuit_neuron():
    scores = make_scores(0)
    circuit = scores.top(k=15)
    figure = plots.layer_distribution(scores, circuit)
    points = next(t for t in figure.data if "(15)" in (t.name or ""))
    assert sorted(points.y) == pytest.approx(sorted(circuit.to_frame()["score"]))
    bars = figure.data[-1]
    assert list(bars.y) == circuit.per_layer()["n"].tolist()
    middle = next(t for t in figure.data if t.name == "50 % of neurons")
    values = scores.scores["blocks.2.mlp.hook_post"].numpy()
    assert [middle.y[6], middle.y[7]] == pytest.approx(list(np.quantile(values, [0.25, 0.75])), rel=1e-5)


def test_half_a_million_neurons_make_a_light_figure():
    big = UnitScores({f"blocks.{i}.mlp.hook_post": torch.randn(15_000) for i in range(33)}, "difference")
    circuit = big.top(fraction=0.001)
    assert len(plots.layer_distribution(big, circuit).to_json()) < 1_000_000
    assert len(plots.neuron_scatter(big, big, circuits={"a": circuit, "b": circuit}).to_json()) < 1_000_000


def test_dose_response_joins_the_baseline_at_one():
    figure = plots.dose_response(summary())
    line = next(t for t in figure.data if t.mode == "lines+markers")
    assert list(line.x) == [0.0, 0.5, 1.0, 2.0]
    assert list(line.y) == [0.0, 0.2, 0.9, 0.8]


def test_bars_have_the_tables_values_and_intervals():
    figure = plots.bars(summary(), metric="refusal")
    bar = figure.data[0]
    assert list(bar.x) == [0.9, 0.0, 0.2, 0.8]
    assert list(bar.error_x.array) == pytest.approx([0.05, 0.0, 0.025, 0.1])
    assert list(figure.data[1].x) == [0.8, 0.8]


def test_scatter_sorts_members_into_shared_and_own():
    a, b = make_scores(0), make_scores(1)
    circuits = {"base": a.top(k=30), "instruct": b.top(k=30)}
    figure = plots.neuron_scatter(a, b, circuits=circuits)
    shared = len(circuits["base"] & circuits["instruct"])
    assert [len(t.x) for t in figure.data[1:]] == [shared, 30 - shared, 30 - shared]


def test_overlap_and_profile_are_the_circuits_numbers():
    a, b = make_scores(0).top(k=30), make_scores(1).top(k=30)
    assert plots.overlap({"a": a, "b": b}).data[0].z[0][1] == a.overlap(b)["jaccard"]
    assert list(plots.circuit_profile({"a": a}).data[0].y) == a.per_layer()["share"].tolist()


def test_histogram_ranks_and_tokens():
    values = {"positive": np.random.default_rng(0).normal(size=50), "negative": np.zeros(20)}
    figure = plots.activation_histogram(values)
    assert [sum(t.y) for t in figure.data] == pytest.approx([1, 1])
    scores = {"difference": make_scores(0), "effect_size": make_scores(1, rule="effect_size")}
    ranks = plots.score_ranks(scores, "blocks.1.mlp.hook_post", 3)
    assert ranks.data[0].text[0] == f"rank {scores['difference'].rank_of('blocks.1.mlp.hook_post', 3) + 1:,} of 800"
    tokens = plots.promoted_tokens(pd.DataFrame({"token": [" a", "a", "<b>", "a"], "logit": [1.0, 0.5, -2.0, 0.2]}))
    assert len(set(tokens.data[0].y)) == 4


def test_text_of_users_is_escaped_everywhere():
    bad = "<a href='javascript:1'>x</a>"
    circuits = {bad: make_scores(0).top(k=3, name=bad), "b": make_scores(1).top(k=3)}
    scores = {name: make_scores(0, rule=bad) for name in circuits}
    figures = [
        plots.dose_response(summary(bad)),
        plots.bars(summary(bad)),
        plots.circuit_profile(circuits),
        plots.overlap(circuits),
        plots.layer_distribution(scores[bad], circuits[bad], title=bad),
        plots.neuron_scatter(*scores.values(), circuits=circuits),
        plots.score_ranks(scores, "blocks.0.mlp.hook_post", 0),
        plots.activation_histogram({bad: [1.0, 2.0]}, title=bad),
        plots.promoted_tokens(pd.DataFrame({"token": [bad], "logit": [1.0]})),
        plots.precision_recall(pd.DataFrame({"rule": [bad], "k": [1], "precision": [1.0], "recall": [1.0]})),
    ]
    for figure in figures:
        assert "<a href" not in json.dumps(json.loads(figure.to_json()), ensure_ascii=False)


def test_missing_columns_and_empty_tables_say_what_is_needed():
    with pytest.raises(InputError, match="'low'"):
        plots.dose_response(summary().drop(columns="low"))
    with pytest.raises(InputError, match="empty"):
        plots.bars(summary().head(0))
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
    page = plots.index(tmp_path, [("f.html", "<script>alert(1)</script>")]).read_text()
    assert "<script>" not in page


def test_a_figure_that_cannot_be_drawn_is_reported_and_not_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "static_export_problem", lambda: None)

    class Broken:
        layout = plots.circuit_profile(
            {"a": Circuit.from_indices({"blocks.0.mlp.hook_post": [1]}, {"blocks.0.mlp.hook_post": 4})}
        ).layout

        def to_image(self, **_):
            raise RuntimeError("the browser is gone")

    report = plots.export(Broken(), tmp_path / "f", formats=("png",))
    assert report.skipped == {"png": "the browser is gone"}


def test_static_pictures_where_a_browser_engine_works(tmp_path):
    problem = plots.static_export_problem()
    if problem is not None:
        pytest.skip(problem)
    report = plots.export(plots.dose_response(summary()), tmp_path / "f", formats=("svg", "png"))
    assert [path.suffix for path in report.written] == [".svg", ".png"]
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
