"""Probes find a planted unit, report an honest AUROC, and read latents, neurons and residual streams alike."""

from zlib import crc32

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from support.dictionaries import random_dictionary

from mechsurgery.attribution.probes import auroc, fit_probe, fit_probe_on, fit_probe_on_examples
from mechsurgery.attribution.statistics import example_activations, unit_activations
from mechsurgery.errors import InputError
from mechsurgery.prompts import Examples

SITE = "blocks.1.hook_resid_post"


def planted(n=120, d=30, seed=0, strength=2.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    x = generator.normal(size=(n, d)) * generator.uniform(0.1, 9, d)
    x[:, 4] += strength * labels * x[:, 4].std()
    return torch.tensor(x, dtype=torch.float32), labels.tolist(), [f"g{i // 4}" for i in range(n)]


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_the_planted_unit_has_the_largest_weight(penalty):
    x, y, groups = planted()
    probe = fit_probe_on({"a": x[:, :10], "b": x[:, 10:]}, y, groups, penalty=penalty)
    assert probe.scores().rank_of("a", 4) == 0
    assert probe.low <= probe.auroc <= probe.high
    assert probe.auroc > 0.8
    if penalty == "l1":
        assert int((torch.cat(list(probe.weights.values())) == 0).sum()) > 5


def test_it_is_the_plain_regression_and_its_decision():
    x, y, groups = planted()
    probe = fit_probe_on({"a": x}, y, groups, strengths=[0.1])
    scaler = StandardScaler().fit(x.numpy())
    plain = LogisticRegression(C=0.1, max_iter=5000).fit(scaler.transform(x.numpy()), y)
    np.testing.assert_allclose(probe.weights["a"], plain.coef_[0], atol=2e-3)
    np.testing.assert_allclose(probe.decision({"a": x}), plain.decision_function(scaler.transform(x)), atol=2e-2)


def test_noise_has_an_auroc_of_chance_also_where_groups_give_the_label_away():
    x, _, groups = planted(strength=0.0, n=160)
    labels = [int(name[1:]) % 2 for name in groups]
    # Seeds of its own: a 95 % interval misses one draw in twenty, so unseeded draws would fail now and then.
    shift = torch.tensor([[crc32(name.encode()) % 97 for name in groups]]).T
    inside = []
    for seed in range(3):
        noise = torch.randn(1, 30, generator=torch.Generator().manual_seed(seed))
        probe = fit_probe_on({"a": x + shift * noise}, labels, groups)
        inside.append(probe.low < 0.5 < probe.high)
    assert sum(inside) >= 2


def test_all_kinds_of_units_together(tiny_llama, contrast):
    dictionary = random_dictionary(SITE, tiny_llama.cfg.d_model)
    units = [SITE, "blocks.0.mlp.hook_post", dictionary]
    probe = fit_probe(tiny_llama, contrast, units, folds=3)
    assert {site: len(w) for site, w in probe.weights.items()} == {
        SITE: tiny_llama.cfg.d_model,
        "blocks.0.mlp.hook_post": tiny_llama.cfg.d_mlp,
        dictionary.site: 48,
    }
    found = unit_activations(tiny_llama, contrast.positive, [SITE, dictionary], max_rows=3)
    torch.testing.assert_close(found[dictionary.site], dictionary.encode(found[SITE]), atol=1e-5, rtol=1e-4)
    assert len(probe.scores().top(fraction=0.03)) == round(0.03 * len(probe.scores()))


def test_shuffled_labels_have_an_auroc_of_chance_beside_a_planted_unit():
    x, y, groups = planted()
    probe = fit_probe_on({"a": x}, y, groups, nulls=4)
    assert probe.auroc > 0.8
    assert len(probe.null) == 4
    assert max(probe.null) < probe.low
    assert abs(np.mean(probe.null) - 0.5) < 0.15
    assert probe.groups == 30


def test_auroc_is_scikit_learn_s_and_its_interval_follows_groups():
    generator = np.random.default_rng(0)
    labels, groups = generator.integers(0, 2, 60), [f"g{i // 6}" for i in range(60)]
    decided = np.round(labels + generator.normal(size=60), 1)
    found, low, high = auroc(labels.tolist(), decided.tolist(), groups)
    assert found == pytest.approx(roc_auc_score(labels, decided))
    assert low < found < high
    single = auroc(labels.tolist(), decided.tolist(), [str(i) for i in range(60)])
    assert single[0] == found
    assert (low, high) != single[1:]


SHOWN = Examples(((5, 6, 7), (8, 9), (11, 12, 13, 14)), ((20, 21), (22, 23, 24), (25,)))


@pytest.mark.parametrize("read", ["prompt", "last", "completion"])
def test_examples_are_read_where_it_says(tiny_llama, read):
    dictionary = random_dictionary(SITE, tiny_llama.cfg.d_model)
    found = example_activations(tiny_llama, SHOWN, [SITE, dictionary], read=read, max_rows=2)
    for row, (prompt, completion) in enumerate(zip(SHOWN.prompts, SHOWN.completions)):
        with torch.no_grad():
            _, cache = tiny_llama.run_with_cache(torch.tensor([[*prompt, *completion]]))
        own = cache[SITE][0]
        places = {"prompt": [len(prompt) - 1], "last": [-1], "completion": range(len(prompt), len(own))}[read]
        stream, latents = own[list(places)], dictionary.encode(own)[list(places)]
        torch.testing.assert_close(found[SITE][row], stream.mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[dictionary.site][row], latents.mean(0), atol=1e-5, rtol=1e-4)


def test_two_ways_to_answer_are_told_apart_over_the_answer_and_not_before_it(tiny_llama):
    prompts = tuple((5 + i, 40 + i % 3) for i in range(20))
    groups = tuple(f"g{i}" for i in range(20))
    yes, no = (Examples(prompts, tuple((first, 30 + i % 4) for i in range(20)), groups) for first in (60, 90))
    probe = fit_probe_on_examples(tiny_llama, yes, no, [SITE], read="completion")
    assert probe.auroc > 0.95
    assert probe.info["read"] == "completion"
    said = [probe.decision(example_activations(tiny_llama, side, [SITE])) for side in (yes, no)]
    assert float((said[0] > said[1]).float().mean()) == 1.0
    before = fit_probe_on_examples(tiny_llama, yes, no, [SITE], read="prompt")
    assert before.auroc == pytest.approx(0.5, abs=0.05), "both sides have the same prompts"


def test_bad_input(tiny_llama, contrast):
    x, y, groups = planted(n=20)
    with pytest.raises(InputError, match="both 0 and 1"):
        fit_probe_on({"a": x}, [1] * 20, groups)
    with pytest.raises(InputError, match="penalty"):
        fit_probe_on({"a": x}, y, groups, penalty="l3")
    with pytest.raises(InputError, match="fewer folds"):
        fit_probe_on({"a": x}, y, ["one"] * 20)
    with pytest.raises(InputError, match="groups"):
        fit_probe_on({"a": x}, y, groups[:3])
    dictionary = random_dictionary(SITE, tiny_llama.cfg.d_model)
    with pytest.raises(InputError, match="last token"):
        unit_activations(tiny_llama, contrast.positive, [dictionary], positions="mean")
