"""Probes find a planted unit, report an honest AUROC, and read latents, neurons and residual streams alike."""

from zlib import crc32

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from support.dictionaries import random_dictionary

from mechsurgery.attribution.probes import fit_probe, fit_probe_on
from mechsurgery.attribution.statistics import unit_activations
from mechsurgery.errors import InputError

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
