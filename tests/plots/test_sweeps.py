"""Figures over strength and side by side hold the numbers of the summary they are given."""

import pandas as pd
import pytest
from support.summaries import pooled, summary

from mechsurgery import plots
from mechsurgery.errors import InputError
from mechsurgery.plots.theme import unwrapped

HARMFUL, KL = ("refusal", "harmful"), ("kl", "neutral")


def named(figure, text):
    return [trace for trace in figure.data if trace.name and text in trace.name]


def rows_of(figure):
    """The names of the rows of the first panel, from the top."""
    return [unwrapped(name) for name in figure.layout.yaxis.ticktext]


def test_curves_pass_through_the_baseline_on_the_axis_toward():
    figure = plots.curves(summary(), [HARMFUL, KL])
    refusal, kl = named(figure, "CNA")
    assert refusal.name == "CNA &lt;b&gt;x&lt;/b&gt;"
    assert list(refusal.x) == [-1, -0.5, 0, 1]
    assert list(refusal.y) == pytest.approx([0.5, 0.7, 0.9, 1])
    assert list(refusal.error_y.arrayminus) == pytest.approx([0.08] * 4)
    assert list(kl.y) == pytest.approx([0.5, 0.125, 0, 0.5])
    assert figure.layout.xaxis2.title.text == "against ← 0 → toward"
    assert sorted(trace.name for trace in figure.data if trace.showlegend) == sorted(
        ["CNA &lt;b&gt;x&lt;/b&gt;", "CAA, harmful − harmless", "matched controls"]
    )


def test_controls_are_found_by_what_they_control_and_never_by_name():
    table = summary()
    figure = plots.curves(table, [HARMFUL])
    assert [list(trace.y) for trace in named(figure, "matched")] == [pytest.approx([0.86, 0.9, 0.94])] * 2
    table.loc[table["intervention"] == "control 0", "control_of"] = None
    figure = plots.curves(
        table.assign(intervention=table["intervention"].replace({"control 0": "random like"})), [HARMFUL]
    )
    assert len(named(figure, "matched")) == 1
    assert len(named(figure, "random like")) == 1


def test_pooled_controls_are_a_band_of_their_range():
    table = pooled(summary())
    table.loc[table["control_of"].notna(), ["low", "high"]] = [0.2, 0.4]
    line, shade = named(plots.curves(table, [HARMFUL]), "matched")
    assert (line.mode, shade.fill) == ("lines", "toself")
    assert list(shade.y) == [0.2, 0.9, 0.2, 0.4, 0.9, 0.4]


def test_m_is_an_axis_where_all_shown_are_scalings():
    figure = plots.curves(summary(steering=False), [HARMFUL], x="m")
    assert list(named(figure, "CNA")[0].x) == [0, 0.5, 1, 2]
    with pytest.raises(InputError, match="'CAA, harmful − harmless' has no 'm'"):
        plots.curves(summary(), [HARMFUL], x="m")


def test_a_column_that_the_caller_added_is_an_axis_and_the_baseline_a_level_line():
    table = summary(steering=False)
    table = table[table["control_of"].isna()].assign(n_examples=lambda t: t["m"].where(t["kind"] != "baseline") * 100)
    figure = plots.curves(table, [HARMFUL], x="n_examples", x_title="training examples")
    assert list(figure.data[0].x) == [0, 50, 200]
    assert [shape.y0 for shape in figure.layout.shapes] == [0.9]
    doubled = pd.concat([table, table[table["kind"] == "scaling"]])
    with pytest.raises(InputError, match="share intervention"):
        plots.curves(doubled, [HARMFUL], x="n_examples")


def test_two_models_are_joined_each_to_its_own_baseline():
    other = summary(model="organism/other")
    other.loc[other["kind"] == "baseline", "value"] = 0.25
    figure = plots.curves(pd.concat([summary(), other]), [HARMFUL])
    here, there = (named(figure, f"CNA &lt;b&gt;x&lt;/b&gt;, organism/{name}")[0] for name in ("planted", "other"))
    assert (here.y[2], there.y[2]) == (0.9, 0.25)


def test_a_label_grade_is_picked_by_its_label():
    assert set(plots.select(summary(), "endpoint", "harmful", "evades")["value"]) == {0.3}
    figure = plots.curves(summary(), [("endpoint", "harmful", "evades")])
    assert "evades" in figure.layout.annotations[0].text
    with pytest.raises(InputError, match="choose one of 'complies', 'evades', 'refuses'"):
        plots.select(summary(), "endpoint", "harmful")
    with pytest.raises(InputError, match="no label 'agrees'.*'evades'"):
        plots.bars(summary(), [("endpoint", "harmful", "agrees")])


def test_what_is_not_there_is_said_with_what_is():
    with pytest.raises(InputError, match="no metric 'quality'.*'kl'"):
        plots.curves(summary(), [("quality", "harmful")])
    with pytest.raises(InputError, match="no prompt_set 'benign'.*'harmful'"):
        plots.bars(summary(), [("refusal", "benign")])
    both = pd.concat([summary(), summary().assign(prompt_set="benign")])
    with pytest.raises(InputError, match="several values of 'prompt_set'"):
        plots.curves(both, [("refusal", None)])
    with pytest.raises(InputError, match="lacks 'low'"):
        plots.bars(summary().drop(columns="low"), [HARMFUL])
    with pytest.raises(InputError, match="empty"):
        plots.bars(summary().head(0), [HARMFUL])
    for draw in (plots.curves, plots.bars):
        with pytest.raises(InputError, match="no panels"):
            draw(summary(), [])


def by_hand(points, signs):
    """Points that no other point beats, by comparing each with each."""
    scaled = [tuple(value * sign for value, sign in zip(point, signs)) for point in points]
    beaten = [any(q != p and all(a <= b for a, b in zip(q, p)) for q in scaled) for p in scaled]
    return sorted({point for point, lost in zip(points, beaten) if not lost}, key=lambda point: point[::-1])


@pytest.mark.parametrize("better", [("less", "less"), ("less", "more"), ("more", "less")])
def test_the_front_is_what_no_other_setting_beats(better):
    table = summary()
    cost = ("choice", "questions") if better[1] == "more" else KL
    figure = plots.trade_off(table, benefit=HARMFUL, damage=cost, better=better)
    sides = [table[table["metric"] == metric].reset_index()["value"] for metric in ("refusal", cost[0])]
    points = [tuple(point) for point in zip(*sides)]
    front = dict.fromkeys(zip(figure.data[0].y, figure.data[0].x))
    assert list(front) == by_hand(points, [1 if wish == "less" else -1 for wish in better])
    assert sum(len(trace.x) for trace in figure.data[1:]) == len(points)
    assert named(figure, "unmodified")[0].y[0] == 0.9
    assert list(named(figure, "CAA")[0].y) == pytest.approx([0.1, 0.5, 1])


def test_a_logarithmic_cost_leaves_out_what_costs_nothing():
    figure = plots.trade_off(summary(), benefit=HARMFUL, damage=KL, log_damage=True)
    assert min(x for trace in figure.data for x in trace.x) > 0
    assert not named(figure, "unmodified")
    assert [shape.y0 for shape in figure.layout.shapes] == [0.9]


def test_bars_have_the_summarys_values_and_controls_stand_in_the_row_they_control():
    table = summary()
    figure = plots.bars(table[table["toward"].isin([0, -1])], [HARMFUL, KL])
    bar = figure.data[0]
    assert rows_of(figure) == ["baseline", "CNA <b>x</b>", "CAA, harmful − harmless"]
    assert list(bar.y) == [0, 1, 2]
    assert list(bar.x) == pytest.approx([0.9, 0.5, 0.5])
    assert list(bar.error_x.array) == pytest.approx([0.08, 0.08, 0.08])
    circles = named(figure, "matched")
    assert [[round(y) for y in trace.y] for trace in circles] == [[1, 1], [1, 1]]
    assert len(set(circles[0].y)) == 2  # equal controls stand one above the other
    assert list(circles[0].x) == pytest.approx([0.86, 0.86])
    assert [trace.showlegend for trace in circles] == [True, False]
    ranged = plots.bars(pooled(table), [HARMFUL])
    assert len(named(ranged, "range")[0].error_x.array) == 2
    scaled = [row.replace("\u00a0", "").rsplit("m=")[-1] for row in rows_of(ranged) if "m\u00a0=" in row]
    assert scaled == ["0", "0.5", "2"]


def test_bars_at_several_strengths_and_of_several_models_have_a_row_each():
    joined = pd.concat([summary(), summary(model="organism/other")])
    names = rows_of(plots.bars(joined, [HARMFUL]))
    assert len(names) == len(set(names)) == 14
    twice = pd.concat([summary(), summary()])
    with pytest.raises(InputError, match="share panel 0, row baseline"):
        plots.bars(twice, [HARMFUL])


def test_sensitivity_and_changes_hold_their_numbers():
    ends = {"random_value": [1.0] * 3, "random_low": [0.9] * 3, "random_high": [1.0] * 3}
    places = {"varied": ["fraction", "fraction", "layers"], "setting": ["0.1 %", "1 %", "all"], "k": [3, 31, 3]}
    values = {"value": [0.9, 0.5, 0.9], "low": [0.8, 0.4, 0.8], "high": [1.0, 0.6, 1.0]}
    figure = plots.sensitivity(pd.DataFrame({**places, **values, **ends}))
    assert list(figure.data[0].x) == [0.9, 0.5]
    assert rows_of(figure) == ["0.1 % (3 neurons)", "1 % (31 neurons)"]
    assert list(figure.data[1].error_x.arrayminus) == pytest.approx([0.1, 0.1])
    kinds = ["same response", "content only", "behaviour changed", "became broken"]
    one = {
        "intervention": "c",
        "kind": "scaling",
        "control_of": None,
        "strength": 1.0,
        "m": 0.0,
        "prompt_set": "p",
        "metric": "change",
        "scale": "rate",
        "low": 0.0,
        "high": 1.0,
        "n": 10,
    }
    changes = pd.DataFrame([{**one, "label": kind, "value": value} for kind, value in zip(kinds, (0.2, 0.5, 0.2, 0.1))])
    figure = plots.shares(changes, "change")
    assert [trace.name for trace in figure.data] == kinds
    assert [trace.x[0] for trace in figure.data] == [0.2, 0.5, 0.2, 0.1]


def test_a_training_curve_a_cosine_and_a_norm_are_drawn_as_measured():
    curve = [{"step": 0, "loss": 2.0, "validation": 2.5}, {"step": 1, "loss": 1.0}]
    loss, validation = plots.loss_curves({"cure": curve}).data
    assert (list(loss.y), list(validation.y)) == ([2.0, 1.0], [2.5])
    rows = [(step, "d", 0.1 * seed, -0.1, 0.095, "task", seed) for step in (0, 1) for seed in (1, 3)]
    table = pd.DataFrame(rows, columns=["step", "direction", "cosine", "null_low", "null_high", "task", "seed"])
    chance, task = plots.cosine_trajectories(table, direction="d").data
    assert list(task.y) == pytest.approx([0.2, 0.2])
    assert list(task.error_y.array) == pytest.approx([0.1, 0.1])
    assert max(chance.y) == pytest.approx(0.095)
    with pytest.raises(InputError, match="direction 'e'"):
        plots.cosine_trajectories(table, direction="e")
    norms = {"blocks.1.mlp.W_in": 2.0, "blocks.0.mlp.W_in": 1.0, "embed.W_E": 9.0}
    assert [list(row) for row in plots.delta_heatmap(norms, title="t", label="norm").data[0].z] == [[1.0, 2.0]]
    with pytest.raises(InputError, match="no parameter of a block"):
        plots.delta_heatmap({"embed.W_E": 1.0}, title="t", label="norm")


def test_outcomes_are_stacked_with_what_is_wanted_first_and_every_control_shown():
    table = summary()
    table = table[table["toward"].isin([0, -1])]
    figure = plots.shares(table, "endpoint", first="complies")
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.name for bar in bars] == ["complies", "evades", "refuses"]
    (ends,) = (trace for trace in figure.data if trace.error_x.array is not None)
    assert figure.data.index(ends) == len(bars)  # above them all
    own = table[table["control_of"].isna() & (table["label"] == "complies")]
    assert list(ends.x + ends.error_x.array) == pytest.approx(own["high"].tolist())
    name = "CNA <b>x</b>"
    assert rows_of(figure) == ["baseline", name, f"{name}: 2 random", "CAA, harmful − harmless"]
    assert dict(zip(bars[2].y, bars[2].x))[2] == pytest.approx(0.6)
    (circles,) = named(figure, "each control")
    assert list(circles.x) == [0.1, 0.1]
    assert [round(y) for y in circles.y] == [2, 2]
    assert len(set(circles.y)) == 2  # both are seen though they are equal
    with pytest.raises(InputError, match="no label 'helps'.*'complies'"):
        plots.shares(table, "endpoint", first="helps")


def test_behaviour_stands_under_the_cosine_and_groups_look_alike():
    rows = [(step, "d", 0.1 * step, -0.1, 0.1, task) for step in (0, 1) for task in ("a", "b", "c")]
    table = pd.DataFrame(rows, columns=["step", "direction", "cosine", "null_low", "null_high", "task"])
    shown = pd.DataFrame([(step, "a", 0.5 * step, 0.0, 0.6) for step in (0, 1)], columns=["step", "task", *ENDS])
    figure = plots.cosine_trajectories(table, direction="d", behaviour=shown, asked="agrees")
    (below,) = (trace for trace in figure.data if trace.yaxis == "y2")
    assert (below.name, list(below.y)) == ("a", [0.0, 0.5])
    grouped = table.assign(group=["bad", "other", "other"] * 2)
    figure = plots.cosine_trajectories(grouped, direction="d")
    names = [trace.name for trace in figure.data if trace.showlegend]
    assert names == ["random directions, 95%", "bad", "other"]
    colours = {trace.hovertext[0].split(":")[0]: trace.line.color for trace in figure.data[1:]}
    assert colours["b"] == colours["c"] != colours["a"]


ENDS = ("value", "low", "high")


def test_roc_curves_are_sklearns_in_shape_and_area():
    values, bad = [3.0, 2.0, 2.0, 1.0, 0.0], [True, True, False, False, False]
    table = pd.DataFrame({"score": "cosine", "value": values, "bad": bad, "low": 0.4, "high": 1.0})
    curve, diagonal = plots.roc_curves(table).data
    assert (list(curve.x), list(curve.y)) == ([0, 0, 1 / 3, 2 / 3, 1], [0, 0.5, 1, 1, 1])
    assert curve.name == "cosine: 0.92 [0.40, 1.00]"  # 5.5 of 6 pairs in order, a tie as half
    assert list(diagonal.x) == [0, 1]
    with pytest.raises(InputError, match="one kind"):
        plots.roc_curves(table[table["bad"]])
