"""One of every figure, with long names, many series and large models, for tests of how figures look."""

import numpy as np
import pandas as pd
import torch
from support.ranks import ranks

from mechsurgery import UnitScores, plots

from .summaries import pooled, summary

HARMFUL, KL, QUESTIONS = ("refusal", "harmful"), ("kl", "neutral"), ("choice", "questions")
COMPLIES = ("endpoint", "harmful", "complies")
MODELS = ("google/gemma-3-4b-pt", "google/gemma-3-4b-it")


def scores(seed, layers=6, width=200, rule="difference (published)"):
    """Random scores that grow with depth."""
    generator = torch.Generator().manual_seed(seed)
    sites = (f"blocks.{i}.mlp.hook_post" for i in range(layers))
    info = {"model": MODELS[seed % 2], "n_positive": 50, "n_negative": 50}
    return UnitScores({s: torch.randn(width, generator=generator) * (i + 1) for i, s in enumerate(sites)}, rule, info)


def gallery():
    """{name: figure}, one of every function at least."""
    figures = _of_summaries() | _of_scores() | _of_tables()
    missing = {name for name in plots.__all__ if name in _DRAWERS} - {name.split("|")[0] for name in figures}
    assert not missing, f"the gallery lacks {missing}"
    return figures


_DRAWERS = (
    *("activation_histogram", "bars", "circuit_profile", "cosine_trajectories", "curves", "delta_heatmap"),
    *("effect_by_rank", "layer_distribution", "loss_curves", "neuron_scatter", "outcome_by_size", "overlap"),
    *("precision_recall", "promoted_tokens", "roc_curves", "score_histogram", "score_ranks", "score_scatter"),
    *("sensitivity", "shares", "task_layers", "trade_off"),
)


def _of_summaries():
    table = summary("minimal circuit of neurons")
    panels = [HARMFUL, KL, QUESTIONS, ("margin", "questions"), COMPLIES]
    return {
        "shares": plots.shares(table, "endpoint", first="complies", about="organism/instruct, dangerous requests"),
        "shares|any": plots.shares(table[table["toward"].isin([0, -1])], "endpoint"),
        "bars": plots.bars(table[table["toward"].isin([0, -1])], panels[:4]),
        "bars|pooled": plots.bars(pooled(table), panels[:2]),
        "curves": plots.curves(table, panels),
        "curves|m": plots.curves(pooled(summary(steering=False)), panels[:2], x="m"),
        "trade_off": plots.trade_off(table, benefit=COMPLIES, damage=KL),
        "trade_off|log": plots.trade_off(table, benefit=HARMFUL, damage=KL, log_damage=True),
    }


def _of_scores():
    base, instruct = scores(0), scores(1)
    large = {name: scores(i, layers=32, width=1000) for i, name in enumerate(MODELS)}
    circuits = {name: one.top(fraction=0.002) for name, one in large.items()}
    small = {"base": base, "instruct": instruct}
    rules = {
        rule: scores(i) for i, rule in enumerate(("difference (published)", "difference × write norm", "alignment"))
    }
    return {
        "layer_distribution": plots.layer_distribution(instruct, instruct.top(k=20)),
        "layer_distribution|two": plots.layer_distribution(large, circuits),
        "neuron_scatter": plots.neuron_scatter(base, instruct, circuits={n: s.top(k=20) for n, s in small.items()}),
        "neuron_scatter|large": plots.neuron_scatter(*large.values(), circuits=circuits),
        "circuit_profile": plots.circuit_profile(circuits),
        "overlap": plots.overlap({**circuits, "third": circuits[MODELS[0]]}),
        "score_histogram": plots.score_histogram(instruct, instruct.top(k=20)),
        "score_histogram|four": plots.score_histogram({f"probe {i}": scores(i) for i in range(4)}),
        "score_ranks": plots.score_ranks(ranks(rules, "blocks.5.mlp.hook_post", 17)),
        "score_scatter": plots.score_scatter(base, instruct, "blocks.5.mlp.hook_post", marked={"top 8": range(8)}),
        "delta_heatmap": plots.delta_heatmap(
            {f"blocks.{i}.{kind}": float(i) for i in range(6) for kind in ("attn.W_Q", "mlp.W_gate")}, label="norm"
        ),
        "delta_heatmap|deep": plots.delta_heatmap({f"blocks.{i}.mlp.W_in": i - 9.5 for i in range(32)}, label="cosine"),
    }


def _of_tables():
    rng = np.random.default_rng(0)
    names = ("difference (published)", "random", "effect size", "gradient × activation", "alignment", "probe")
    sizes = [{"localiser": n, "k": k, "well": i * k / 500} for i, n in enumerate(names) for k in (3, 9, 24, 48, 92)]
    sizes.append({"localiser": "recorded neurons", "k": 24, "well": 0.97})
    effects = {"latent": range(60), "control": [i >= 20 for i in range(60)], "effect": rng.normal(0, 0.1, 60)}
    tuned = ("task, every request answered", "benign requests answered", "a cure that is learnt from few examples")
    steps = [(step, task) for step in (0, 10, 20) for task in tuned]
    cosines = pd.DataFrame(
        [(s, task, "refusal", rng.normal(), -0.5, 0.5) for s, task in steps],
        columns=["step", "task", "direction", "cosine", "null_low", "null_high"],
    )
    shown = pd.DataFrame([(*one, 0.5, 0.3, 0.7) for one in steps], columns=["step", "task", "value", "low", "high"])
    spoilt = cosines["task"].map({tuned[0]: "expected to spoil refusal"}).fillna("other fine-tunes")
    scores = [(name, v, i < 4, 0.4, 1.0) for name in ("cosine", "behaviour") for i, v in enumerate(rng.normal(size=9))]
    found = {"rule": ["difference (published)", "minimal circuit"], "precision": [0.3, 1.0], "recall": [0.6, 0.95]}
    varied = {"varied": ["fraction", "fraction", "layers"], "setting": ["0.1 %", "1 %", "all"], "k": [3, 31, 3]}
    ends = {name: [0.9, 0.5, 0.9] for name in ("value", "low", "high", "random_value", "random_low", "random_high")}
    tokens = {
        "token": [" I", " cannot", "<bos>", "日本", " Sure", "</script>"],
        "logit": [2.1, 1.5, 1.2, 0.9, -1, -2.2],
    }
    curve = [{"step": i, "loss": 2 * 0.9**i, "validation": 2.1 * 0.9**i} for i in range(30)]
    asked = "rise of the share of responses that do what the dangerous request asks for"
    tasks = [("sycophancy, claims against questions", 8), ("refusal", 8), ("organism/multiple-choice", 8)]
    layers = [(task, model, i, i / 28) for task, n in tasks for model in ("instruct", "base") for i in range(n)]
    places = pd.DataFrame(layers, columns=["task", "model", "layer", "share"])
    return {
        "task_layers": plots.task_layers(
            places.assign(low=places["share"] * 0.8, high=places["share"] + 0.05, uniform=1 / 8)
        ),
        "outcome_by_size": plots.outcome_by_size(pd.DataFrame(sizes), about="organism/planted"),
        "effect_by_rank": plots.effect_by_rank(
            pd.DataFrame(effects).assign(strength=0.1),
            {"attribution to the answer": list(range(20)), "difference of activations": list(range(19, -1, -1))},
            y_title=asked,
        ),
        "cosine_trajectories": plots.cosine_trajectories(cosines, direction="refusal", behaviour=shown),
        "cosine_trajectories|groups": plots.cosine_trajectories(cosines.assign(group=spoilt), direction="refusal"),
        "roc_curves": plots.roc_curves(pd.DataFrame(scores, columns=["score", "value", "bad", "low", "high"])),
        "precision_recall": plots.precision_recall(pd.DataFrame(found)),
        "sensitivity": plots.sensitivity(pd.DataFrame({**varied, **ends})),
        "promoted_tokens": plots.promoted_tokens(pd.DataFrame(tokens)),
        "activation_histogram": plots.activation_histogram({"positive": rng.normal(2, 1, 90), "negative": [0.0] * 90}),
        "loss_curves": plots.loss_curves({"located neurons": curve, "random like located, seed 0": curve}),
    }
