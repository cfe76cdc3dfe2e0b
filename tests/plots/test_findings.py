"""Titles say what the figure shows, each checked against the table it is drawn from; and marks that hid others."""

import math

import numpy as np
import pandas as pd
import plotly.colors
import pytest
import torch
from support.gallery import COMPLIES, HARMFUL, KL, scores
from support.ranks import ranks
from support.summaries import pooled, row, summary

from mechsurgery import UnitScores, plots
from mechsurgery.plots.tables import amount
from mechsurgery.plots.theme import unwrapped


def title(figure):
    return unwrapped(figure.layout.title.text)


def outcomes(values, *, n=100):
    """A summary of one label grade: {intervention: (kind, control_of, {label: share})}."""
    rows = []
    for name, (kind, of, shares) in values.items():
        t = 0.0 if kind == "baseline" else -1.0
        for label, share in shares.items():
            rows.append(row(name, kind, t, "outcome", control_of=of, label=label, value=share) | {"n": n})
    return pd.DataFrame(rows)


BASE = {"baseline": ("baseline", None, {"complies": 0.0, "refuses": 0.99, "broken": 0.01})}
CIRCUIT = {"circuit": ("scaling", None, {"complies": 0.95, "refuses": 0.0, "broken": 0.05})}
RIVAL = {"rival": ("scaling", None, {"complies": 0.2, "refuses": 0.8, "broken": 0.0})}
RANDOM = {f"random {i}": ("scaling", "circuit", {"complies": 0.0, "refuses": 1.0, "broken": 0.0}) for i in range(3)}


def test_the_title_of_shares_is_the_best_share_beside_the_baseline():
    figure = plots.shares(outcomes(BASE | CIRCUIT | RANDOM), "outcome", first="complies")
    assert title(figure) == "circuit, complies 95% of 100 (baseline 0%)"
    figure = plots.shares(outcomes(BASE | RIVAL | CIRCUIT), "outcome", first="complies", about="organism")
    assert title(figure) == "organism: best of 2: circuit, complies 95% of 100 (baseline 0%)"
    equal = {"other": CIRCUIT["circuit"]}
    assert "circuit (and 1 more)" in title(plots.shares(outcomes(BASE | CIRCUIT | equal), "outcome", first="complies"))
    figure = plots.shares(outcomes(BASE | RIVAL | CIRCUIT), "outcome")
    assert title(figure) == "largest change: circuit, refuses 0% of 100 (baseline 99%)"
    twice = {"other": CIRCUIT["circuit"]}
    assert "circuit (and 1 more), refuses 0%" in title(plots.shares(outcomes(BASE | CIRCUIT | twice), "outcome"))
    assert title(plots.shares(outcomes(BASE), "outcome", first="refuses")) == "baseline: refuses 99% of 100"
    assert title(plots.shares(outcomes(CIRCUIT), "outcome")) == "largest share: circuit, complies 95% of 100"
    assert title(plots.shares(outcomes(BASE | CIRCUIT), "outcome", title="Mine")) == "Mine"


def test_shares_are_never_rounded_to_none_or_all():
    assert [amount(value, True) for value in (0, 0.001, 0.004, 0.996, 1)] == ["0%", "0.1%", "0.4%", "99.6%", "100%"]


@pytest.mark.parametrize("seed", range(5))
def test_titles_over_strength_are_the_tables_extremes(seed):
    rng = np.random.default_rng(seed)
    table = summary()
    table["value"] = rng.random(len(table)).round(3)
    table = table.assign(low=table["value"] - 0.01, high=table["value"] + 0.01)
    own = table[(table["metric"] == "refusal") & table["control_of"].isna()]
    changed, base = own[own["kind"] != "baseline"]["value"], own[own["kind"] == "baseline"]["value"].iloc[0]
    low, high, before = (amount(value, True) for value in (changed.min(), changed.max(), base))
    assert title(plots.curves(table, [HARMFUL])) == f"refusal on harmful: {low} to {high} (baseline {before})"
    damage = table[(table["metric"] == "kl") & table["control_of"].isna() & (table["kind"] != "baseline")]
    said = title(plots.trade_off(table, benefit=HARMFUL, damage=KL))
    assert f": {high} (baseline {before}); KL divergence (nats) on neutral " in said
    best = damage[damage["strength"] == own.loc[changed.idxmax(), "strength"]]
    best = best[best["intervention"] == own.loc[changed.idxmax(), "intervention"]]["value"].iloc[0]
    assert said.endswith(amount(best, False))


def test_only_what_moves_has_a_panel_and_the_rest_is_named():
    table = summary()
    figure = plots.curves(table, [HARMFUL, COMPLIES, KL])
    assert [unwrapped(note.text) for note in figure.layout.annotations] == [
        "refusal on harmful",
        "KL divergence (nats) on neutral",
        "Not drawn, since nothing moves beyond the intervals: endpoint: complies on harmful",
    ]
    assert len(plots.curves(table, [HARMFUL, COMPLIES], still="keep").layout.annotations) == 2
    assert len(plots.curves(table, [COMPLIES]).layout.annotations) == 1  # never without a panel


def test_controls_that_equal_each_other_or_the_baseline_are_all_seen():
    rings = plots.shares(outcomes(BASE | CIRCUIT | RANDOM), "outcome", first="complies").data[-1]
    assert list(rings.x) == [0.0] * 3
    assert len({round(y, 3) for y in rings.y}) == 3
    figure = plots.trade_off(summary(), benefit=COMPLIES, damage=KL)
    names = [unwrapped(trace.name) for trace in figure.data]
    ring = figure.data[names.index("matched controls")]
    assert ring.marker.symbol == "circle-open"
    assert names.index("matched controls") > names.index("unmodified")
    table = pd.DataFrame({"localiser": ["random", "probe"], "k": [3, 3], "well": [0.0, 0.0]})
    last = plots.outcome_by_size(table).data[-1]
    assert (last.name, last.marker.symbol) == ("random", "circle-open")


def test_controls_at_one_strength_without_a_baseline_on_the_axis_are_drawn():
    table = summary(steering=False).assign(n_examples=lambda t: t["m"].where(t["kind"] != "baseline"))
    one = table[(table["toward"] != 1) | table["control_of"].isna()]
    controls = [t for t in plots.curves(one, [HARMFUL], x="n_examples").data if "matched" in t.name]
    assert [len(trace.x) for trace in controls] == [1, 1]
    assert all("markers" in trace.mode for trace in controls)


def test_a_better_rank_is_further_right_and_longer():
    ladder = UnitScores({"blocks.0.mlp.hook_post": torch.arange(1000.0)}, "r")
    rules = {"best": ladder, "worst": UnitScores({"blocks.0.mlp.hook_post": -torch.arange(1000.0).flip(0)}, "r")}
    figure = plots.score_ranks(ranks(rules, "blocks.0.mlp.hook_post", 999))
    start, end = figure.layout.xaxis.range
    assert start > end  # rank 1 is at the right
    best, worst = figure.data
    length = [math.log10(line.x[0]) - math.log10(line.x[1]) for line in (best, worst)]
    assert (list(best.x), list(worst.x)) == ([1000, 1], [1000, 1000])
    assert length[0] > length[1] == 0


def test_a_single_neuron_of_a_large_model_is_not_white():
    large = scores(0, layers=30, width=300), scores(1, layers=30, width=300)
    density = plots.neuron_scatter(*large).data[0]
    assert np.nanmin(np.array(density.z, dtype=float)) == density.zmin == 0
    light = plotly.colors.hex_to_rgb(density.colorscale[0][1])
    assert max(light) < 215
    small = plots.neuron_scatter(scores(0), scores(1)).data[0]
    assert (small.type, len(small.x)) == ("scatter", 1200)


def test_scores_of_two_models_stand_side_by_side_on_one_scale():
    models = {"base": scores(0), "instruct": scores(1)}
    circuits = {name: one.top(k=9) for name, one in models.items()}
    figure = plots.layer_distribution(models, circuits)
    layout = figure.layout
    assert layout.xaxis.domain[1] < layout.xaxis2.domain[0]
    assert layout.yaxis.domain == layout.yaxis2.domain
    assert (layout.yaxis2.matches, layout.yaxis4.matches) == ("y", "y3")
    counts = [list(trace.y) for trace in figure.data if trace.type == "bar"]
    assert counts == [circuit.per_layer()["n"].tolist() for circuit in circuits.values()]
    widest = [np.quantile(values.numpy(), [0.01, 0.99]) for values in models["base"].scores.values()]
    layer = int(np.argmax([high - low for low, high in widest]))
    span = f"({widest[layer][0]:.2g} to {widest[layer][1]:.2g})".replace("-", "−")
    assert f"base layer {layer} {span}" in title(figure)


def test_the_chosen_tail_of_a_histogram_is_the_circuit():
    one = scores(1)
    circuit = one.top(k=20)
    figure = plots.score_histogram(one, circuit)
    every, chosen = figure.data
    assert (np.nansum(every.y), np.nansum(chosen.y)) == (1200, 20)
    assert all(not c > e for c, e in zip(chosen.y, every.y))
    values = circuit.to_frame()["score"]
    tails = sorted(shape.x0 for shape in figure.layout.shapes)
    assert tails == pytest.approx([values[values < 0].max(), values[values >= 0].min()])
    assert title(figure) == f"20 of 1,200 units chosen, all with |score| ≥ {values.abs().min():.2g}"


def test_hovering_says_model_unit_score_n_and_seed():
    one = scores(1)
    random = one.top(k=5).random_like(3)
    marks = next(t for t in plots.layer_distribution(one, random).data if t.mode == "markers")
    assert "google/gemma-3-4b-it, n = 50 + 50, seed 3" in marks.text[0]
    assert "L" in marks.text[0]
    curve = next(t for t in plots.curves(summary(), [HARMFUL]).data if "CAA" in t.name)
    assert curve.text[0].split("<br>") == [
        "CAA, harmful − harmless",
        "10% [2%, 18%], n = 100",
        "strength: -2",
        "prompts: harmful",
        "model: organism/planted",
    ]
    assert any("controls of" in text for t in plots.curves(pooled(summary()), [HARMFUL]).data for text in t.text or [])


def test_bars_of_what_is_selected_stand_under_their_layer():
    both = {"base": scores(0), "instruct": scores(1)}
    figure = plots.layer_distribution(both, {name: one.top(k=5) for name, one in both.items()})
    ranges = {tuple(axis.range) for axis in figure.select_xaxes()}
    assert len(ranges) == 1
    low, high = ranges.pop()
    assert low < 0
    assert high > max(int(site.split(".")[1]) for site in both["base"].scores)
