"""Made-up summaries in the shape of `evaluation.summarise`, for figures and verdicts."""

import pandas as pd

COLUMNS = [
    *("model", "intervention", "kind", "control_of", "strength", "m", "toward", "prompt_set", "metric", "label"),
    *("scale", "n", "groups", "value", "low", "high", "baseline", "difference", "p_value"),
]
#: Metric → scale, prompt set, value at signed strength `t`, half of its interval.
METRICS = {
    "refusal": ("rate", "harmful", lambda t: min(1, max(0, 0.9 + 0.4 * t)), 0.08),
    "choice": ("rate", "questions", lambda t: 0.7 - 0.15 * abs(t), 0.06),
    "kl": ("number", "neutral", lambda t: 0.5 * t * t, 0.1),
    "margin": ("number", "questions", lambda t: 2 - t, 0.4),
}
LABELS = {"complies": 0.1, "evades": 0.3, "refuses": 0.6}


def row(intervention, kind, t, metric, *, control_of=None, label=None, value=None, model="organism/planted", m=None):
    scale, prompt_set, curve, half = METRICS.get(metric, ("label", "harmful", None, 0.05))
    value = curve(t) if value is None else value
    low, high = max(value - half, 0), value + half
    if scale != "number":
        high = min(high, 1)
    m = 1 + t if kind in ("baseline", "scaling") else None
    facts = (model, intervention, kind, control_of, -t if kind == "scaling" else t, m, t, prompt_set, metric)
    return dict(zip(COLUMNS, (*facts, label, scale, 100, 50, value, low, high, 0.9, value - 0.9, 0.01)))


def summary(main="CNA <b>x</b>", *, model="organism/planted", steering=True):
    """Baseline, a scaled circuit with two random controls, a steering vector; four metrics and a label grade."""
    cells = [("baseline", "baseline", None, (0.0,)), (main, "scaling", None, (-1.0, -0.5, 1.0))]
    cells += [(f"control {i}", "scaling", main, (-1.0, 1.0)) for i in (0, 1)]
    if steering:
        cells.append(("CAA, harmful − harmless", "steering", None, (-2.0, -1.0, 1.0)))
    rows = []
    for name, kind, control_of, strengths in cells:
        for t in strengths:
            effect = 0.1 * t if control_of else t
            for metric in METRICS:
                one = row(name, kind, t, metric, control_of=control_of, model=model)
                value = METRICS[metric][2](effect)
                shift = value - one["value"]
                rows.append(one | {end: one[end] + shift for end in ("value", "low", "high")})
            rows += [
                row(name, kind, t, "endpoint", control_of=control_of, label=label, value=share, model=model)
                for label, share in LABELS.items()
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def pooled(table):
    """The summary with its controls as one row, in the shape of `evaluation.pool_controls`."""
    controls = table[table["control_of"].notna()]
    keys = ["model", "control_of", "kind", "strength", "m", "toward", "prompt_set", "metric", "label", "scale"]
    found = controls.groupby(keys, dropna=False, sort=False).agg(
        value=("value", "mean"), low=("value", "min"), high=("value", "max"), n=("n", "sum"), controls=("n", "size")
    )
    found = found.reset_index().assign(intervention=lambda t: "controls of " + t["control_of"])
    return pd.concat([table[table["control_of"].isna()], found], ignore_index=True)
