"""Latents where they write: every hook point, autoencoders and transcoders, against the model run by hand."""

import pytest
import torch
from reference import naive_autoencoders as naive
from support.dictionaries import random_transcoder, random_weights, sae_of

from mechsurgery.attribution import Units, decoded_direction, neurons_along
from mechsurgery.attribution.gradient import exact_removal, latent_attribution, mean_activation
from mechsurgery.attribution.probes import Probe
from mechsurgery.attribution.splice import mean_latents, spliced_attribution
from mechsurgery.attribution.statistics import contrast_statistics
from mechsurgery.errors import MismatchError, SiteError
from mechsurgery.inspector import inspect_latents
from mechsurgery.inspector.vectors import decoder_tokens
from mechsurgery.intervention import applied, scale_latents, steer_latents
from mechsurgery.intervention.intervention import row_hooks
from mechsurgery.models import sites
from mechsurgery.models.capture import median_norm
from mechsurgery.models.dictionaries import Dictionary, fit_quality, latent_means
from mechsurgery.models.load import load_model
from mechsurgery.models.positions import prompts_end
from mechsurgery.prompts.pairs import CompletionPairs
from mechsurgery.units import Circuit

IDS = torch.tensor([[5, 9, 11, 30, 7], [3, 4, 40, 41, 9]])
READ, WRITE = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
#: (read, write, architecture, settings)
CASES = {
    "resid_pre": ("blocks.1.hook_resid_pre", None, "jumprelu", {}),
    "resid_mid": ("blocks.1.hook_resid_mid", None, "standard", {}),
    "resid_post": ("blocks.1.hook_resid_post", None, "topk", {"k": 6, "rescale_acts_by_decoder_norm": True}),
    "attn_out": ("blocks.1.hook_attn_out", None, "gated", {}),
    "mlp_out": ("blocks.1.hook_mlp_out", None, "jumprelu", {"normalize_activations": "layer_norm"}),
    "mlp hidden": ("blocks.1.mlp.hook_post", None, "topk", {"k": 6, "normalize_activations": "constant_norm_rescale"}),
    "heads": ("blocks.1.attn.hook_z", None, "jumprelu", {}),
    "transcoder": (READ, WRITE, "transcoder", {}),
    "skip-transcoder": (READ, WRITE, "jumprelu_skip_transcoder", {}),
}
OFF = [1, 3, 4, 8, 11, 15, 20]


def made(model, name):
    """(dictionary, its weights, options of the formulas)."""
    read, write, kind, settings = CASES[name]
    w = random_weights(kind, sites.channels(model, read))
    dictionary = Dictionary(sae_of(kind, w, **settings), read, name, write_name=write or "")
    formula = "jumprelu" if "jumprelu" in kind else "standard" if "transcoder" in kind else kind
    how = {
        "how": settings.get("normalize_activations", "none"),
        "by_norm": settings.get("rescale_acts_by_decoder_norm", False),
    }
    return dictionary.check(model), w, (formula, {**how, "k": settings.get("k")}, how)


def by_hand(model, dictionary, w, formulas, changed):
    """Logits with latents z → changed(z): read, computed and added with plain hooks and formulas, token by token."""
    formula, encoding, decoding = formulas
    kept = {}

    def read(a, hook):
        kept["read"] = a.flatten(2) if a.ndim == 4 else a

    def write(a, hook):
        out = a.flatten(2).clone()
        for b, row in enumerate(kept["read"]):
            for t, x in enumerate(row):
                z = naive.latents(formula, w, x, **encoding)
                out[b, t] += naive.written(w, changed(z) - z, x, **decoding)
        return out.reshape(a.shape)

    with torch.no_grad(), model.hooks(fwd_hooks=[(dictionary.hook_name, read), (dictionary.write_name, write)]):
        return model(IDS)


def off(z):
    z = z.clone()
    z[..., OFF] = 0
    return z


@pytest.mark.parametrize("name", CASES)
def test_removing_latents_is_taking_away_what_they_write(tiny_llama, name):
    dictionary, w, formulas = made(tiny_llama, name)
    expected = by_hand(tiny_llama, dictionary, w, formulas, off)
    circuit = Circuit.from_indices({dictionary.site: OFF}, {dictionary.site: dictionary.n_latents})
    gate = torch.ones(dictionary.n_latents)
    gate[OFF] = 0
    gated = Units(tiny_llama, dictionaries=[dictionary]).hooks({dictionary.site: gate})
    with torch.no_grad():
        plain = tiny_llama(IDS)
        with applied(tiny_llama, scale_latents(circuit, dictionary)):
            removed = tiny_llama(IDS)
        with applied(tiny_llama, scale_latents(circuit, dictionary).at(0.0)):
            untouched = tiny_llama(IDS)
        with tiny_llama.hooks(fwd_hooks=gated):
            put_out = tiny_llama(IDS)
    assert float((expected - plain).abs().max()) > 0.01
    torch.testing.assert_close(removed, expected, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(put_out, expected, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(untouched, plain, atol=0, rtol=0)


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_a_transcoder_works_where_an_architecture_norms_otherwise(tiny_checkpoint, family):
    """Gemma-2 normalises what the MLP gives before hook_mlp_out; GPT-2 centres."""
    model = load_model(tiny_checkpoint(family))
    dictionary, w, formulas = made(model, "skip-transcoder")
    circuit = Circuit.from_indices({dictionary.site: OFF}, {dictionary.site: dictionary.n_latents})
    expected = by_hand(model, dictionary, w, formulas, off)
    with torch.no_grad(), applied(model, scale_latents(circuit, dictionary)):
        torch.testing.assert_close(model(IDS), expected, atol=2e-4, rtol=1e-3)


def test_rows_of_one_batch_may_have_their_own_latents_and_places(tiny_llama):
    """Two rows, two transcoder interventions, one of them at the prompt's end alone: each as if it were by itself."""
    dictionary = random_transcoder(READ, WRITE, tiny_llama.cfg.d_model)
    units = {dictionary.site: dictionary.n_latents}
    first, second = (
        scale_latents(Circuit.from_indices({dictionary.site: part}, units), dictionary) for part in (OFF[:3], OFF[3:])
    )
    last = second.at_prompt_end()
    sae = Dictionary(sae_of("topk", random_weights("topk", tiny_llama.cfg.d_model), k=5), WRITE, "sae")
    third = scale_latents(Circuit.from_indices({sae.site: OFF}, {sae.site: 24}), sae)

    def logits(ids, hooks):
        with torch.no_grad(), prompts_end(tiny_llama, 1), tiny_llama.hooks(fwd_hooks=hooks):
            return tiny_llama(ids)

    ids = IDS[[0, 1, 1, 0]]
    together = logits(ids, row_hooks([first, last, third, None], [1.0, 0.5, 1.0, 0.0]))
    alone = [first.hooks(1.0), last.hooks(0.5), third.hooks(1.0), []]
    apart = torch.cat([logits(row[None], hooks) for row, hooks in zip(ids, alone)])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-3)
    assert torch.equal(together[1, :3], logits(ids[1:2], [])[0, :3])
    assert not torch.allclose(together[1, 3], logits(ids[1:2], [])[0, 3])


def probe_of(dictionary):
    generator = torch.Generator().manual_seed(4)
    weights = {dictionary.site: torch.randn(dictionary.n_latents, generator=generator)}
    scales = {dictionary.site: torch.rand(dictionary.n_latents, generator=generator) + 0.5}
    return Probe(weights, {}, scales, 0.0, 0.5, 0.4, 0.6, 10, "l2", 1.0)


def test_steering_and_directions_are_where_latents_write(tiny_llama):
    dictionary = random_transcoder(READ, WRITE, tiny_llama.cfg.d_model)
    heads, *_ = made(tiny_llama, "heads")
    for own in (dictionary, heads):
        norm = median_norm(tiny_llama, IDS.tolist(), own.write_name)
        (run,) = steer_latents(own, [7], norm)
        unit = own.decoder[7] / own.decoder[7].norm()

        def push(a, hook, change=0.5 * norm * unit):
            return (a.flatten(2) + change).reshape(a.shape)

        with torch.no_grad():
            with applied(tiny_llama, run.at(0.5)):
                found = tiny_llama(IDS)
            with tiny_llama.hooks(fwd_hooks=[(own.write_name, push)]):
                torch.testing.assert_close(found, tiny_llama(IDS), atol=1e-4, rtol=1e-3)
        run.random_like(0).check(tiny_llama)
    probe = probe_of(dictionary)
    direction = decoded_direction(probe, dictionary)
    weight = probe.weights[dictionary.site] / probe.scales[dictionary.site]
    torch.testing.assert_close(direction.at(WRITE), weight @ dictionary.decoder)
    assert [sites.layer_of(site) for site in neurons_along(tiny_llama, direction).scores] == [0, 1]
    projected = decoded_direction(probe_of(heads), heads)
    within = projected.at(heads.write_name) @ tiny_llama.blocks[1].attn.W_O.flatten(0, 1)
    found = neurons_along(tiny_llama, projected).scores["blocks.0.mlp.hook_post"]
    rows = sites.write_rows(tiny_llama, 0)
    torch.testing.assert_close(found, torch.cosine_similarity(rows, within[None]), atol=1e-5, rtol=1e-3)


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return tuple(torch.randint(5, 300, (n,), generator=generator).tolist())

    return CompletionPairs(
        tuple(draw(4 + i) for i in range(3)), tuple(draw(2) for _ in range(3)), tuple(draw(2) for _ in range(3))
    )


def metric_by_hand(model, dictionary, pairs, gate):
    """L(bad) − L(good) over pairs with latents scaled by a gate at the prompt's tokens, one sequence at a time."""
    total = 0.0
    for prompt, bad, good in zip(pairs.prompts, pairs.bad, pairs.good):
        for completion, sign in ((bad, 1), (good, -1)):
            kept, n = {}, len(prompt)

            def read(a, hook, kept=kept):
                kept["read"] = a

            def write(a, hook, kept=kept, n=n):
                seen = kept["read"].flatten(2) if kept["read"].ndim == 4 else kept["read"]
                z = dictionary.encode(seen).detach()[:, :n]
                flat = a.flatten(2).clone()
                flat[:, :n] = flat[:, :n] + (z * (gate - 1)) @ dictionary.decoder / n
                return flat.reshape(a.shape)

            at = [(dictionary.hook_name, read), (dictionary.write_name, write)]
            with model.hooks(fwd_hooks=at):
                log_probs = model(torch.tensor([[*prompt, *completion]]))[0].log_softmax(-1)
            losses = [-log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(completion)]
            total = total + sign * sum(losses)
    return total / len(pairs)


@pytest.mark.parametrize("name", ["transcoder", "skip-transcoder", "heads"])
def test_patching_is_the_slope_of_what_removal_does(tiny_llama, pairs, name):
    dictionary, *_ = made(tiny_llama, name)
    gate = torch.ones(dictionary.n_latents, requires_grad=True)
    slope = torch.autograd.grad(metric_by_hand(tiny_llama, dictionary, pairs, gate), gate)[0]
    scores, rest = spliced_attribution(tiny_llama, [dictionary], pairs)
    torch.testing.assert_close(scores.scores[dictionary.site], -slope, atol=1e-4, rtol=1e-2)
    assert list(rest) == [dictionary.write_name]
    later = Dictionary(
        sae_of("jumprelu", random_weights("jumprelu", tiny_llama.cfg.d_model)), "blocks.2.hook_resid_post"
    )
    both, rest = spliced_attribution(tiny_llama, [dictionary, later], pairs)
    torch.testing.assert_close(both.scores[dictionary.site], -slope, atol=1e-4, rtol=1e-2)
    frozen, _ = spliced_attribution(tiny_llama, [dictionary, later], pairs, errors="frozen")
    assert not torch.allclose(frozen.scores[dictionary.site], -slope, atol=1e-4, rtol=1e-2)


def test_integrated_gradients_of_a_transcoder_add_up(tiny_llama, pairs, contrast):
    """To the difference between the model and the model whose MLP gives z̄ decoded, with no error, at prompt tokens."""
    dictionary, w, _ = made(tiny_llama, "skip-transcoder")
    means = mean_latents(tiny_llama, dictionary, contrast.negative)
    scores, rest = spliced_attribution(tiny_llama, [dictionary], pairs, means, steps=24)
    rises = []
    for on in (False, True):
        total = 0.0
        for prompt, bad, good in zip(pairs.prompts, pairs.bad, pairs.good):
            for completion, sign in ((bad, 1), (good, -1)):
                kept, n = {}, len(prompt)

                def read(a, hook, kept=kept):
                    kept["read"] = a

                def write(a, hook, kept=kept, n=n):
                    out = a.clone()
                    z = means[dictionary.site]
                    out[0, :n] = torch.stack([naive.rebuilt(w, z, x) for x in kept["read"][0, :n]])
                    return out

                with torch.no_grad(), tiny_llama.hooks(fwd_hooks=[(READ, read), (WRITE, write)] if on else []):
                    log_probs = tiny_llama(torch.tensor([[*prompt, *completion]]))[0].log_softmax(-1)
                loss = -sum(float(log_probs[len(prompt) - 1 + i, t]) for i, t in enumerate(completion))
                total += sign * loss / len(prompt) / len(pairs)
        rises.append(total)
    found = float(scores.scores[dictionary.site].sum()) + rest[WRITE]
    assert found == pytest.approx(rises[1] - rises[0], rel=0.03, abs=1e-3)


def test_attribution_and_removal_are_those_of_the_directions_written(tiny_llama, pairs, contrast):
    dictionary = random_transcoder(READ, WRITE, tiny_llama.cfg.d_model)
    twin = Dictionary(sae_of("topk", random_weights("topk", tiny_llama.cfg.d_model), k=4), WRITE, "of the output")
    with torch.no_grad():
        twin.sae.W_dec.copy_(dictionary.decoder)
    mean = mean_activation(tiny_llama, contrast.negative, WRITE)
    first, second = (latent_attribution(tiny_llama, d, pairs, mean).scores[d.site] for d in (dictionary, twin))
    torch.testing.assert_close(first, second)
    first, second = (exact_removal(tiny_llama, d, range(5), pairs, mean) for d in (dictionary, twin))
    torch.testing.assert_close(first, second)
    heads, *_ = made(tiny_llama, "heads")
    middle = mean_activation(tiny_llama, contrast.negative, heads.write_name)
    scores = latent_attribution(tiny_llama, heads, pairs, middle).scores[heads.site]
    exact = exact_removal(tiny_llama, heads, range(24), pairs, middle)
    assert torch.corrcoef(torch.stack([scores, exact]))[0, 1] > 0.9


def test_statistics_and_fit_are_of_what_is_read_and_written(tiny_llama, contrast):
    ids = [row[: 3 + i] for i, row in enumerate(IDS.tolist())]
    for name in ("skip-transcoder", "heads"):
        dictionary, w, (formula, encoding, _) = made(tiny_llama, name)
        read, wrote = [], []
        for row in ids:
            kept = {}
            hooks = [
                (site, lambda a, hook, site=site, kept=kept: kept.update({site: a}))
                for site in {dictionary.hook_name, dictionary.write_name}
            ]
            with torch.no_grad(), tiny_llama.hooks(fwd_hooks=hooks):
                tiny_llama(torch.tensor([row]))
            read.append(kept[dictionary.hook_name].flatten(2)[0])
            wrote.append(kept[dictionary.write_name].flatten(2)[0])
        z = [torch.stack([naive.latents(formula, w, x, **encoding) for x in part]) for part in read]
        means = torch.stack([part.mean(0) for part in z]).mean(0)
        torch.testing.assert_close(latent_means(tiny_llama, dictionary, ids), means, atol=1e-5, rtol=1e-4)
        x, y, z = torch.cat(read), torch.cat(wrote), torch.cat(z)
        rebuilt = torch.stack([naive.rebuilt(w, own, one) for own, one in zip(z, x)])
        quality = fit_quality(tiny_llama, dictionary, ids)
        explained = 1 - (y - rebuilt).pow(2).sum() / (y - y.mean(0)).pow(2).sum()
        assert quality["variance_explained"] == pytest.approx(float(explained), rel=1e-3)
        assert quality["mean_l0"] == pytest.approx(float((z != 0).sum()) / len(z))
        statistics = contrast_statistics(tiny_llama, contrast, at=[dictionary])
        assert statistics.difference(dictionary.site).shape == (24,)
    with pytest.raises(SiteError, match="autoencoder that reads them"):
        contrast_statistics(tiny_llama, contrast, at=["blocks.1.attn.hook_z"])


def test_pages_of_latents_show_what_they_write(tiny_llama, contrast):
    dictionary = random_transcoder(READ, WRITE, tiny_llama.cfg.d_model)
    heads, *_ = made(tiny_llama, "heads")
    hidden, *_ = made(tiny_llama, "mlp hidden")
    inside = Dictionary(sae_of("topk", random_weights("topk", tiny_llama.cfg.d_model), k=4), READ, "inside")
    block = tiny_llama.blocks[1]
    written = {
        dictionary: dictionary.decoder[5],
        heads: heads.decoder[5] @ block.attn.W_O.flatten(0, 1),
        hidden: hidden.decoder[5] @ block.mlp.W_out,
    }
    for own, direction in written.items():
        logits = direction @ (tiny_llama.ln_final.w[:, None] * tiny_llama.unembed.W_U)
        lengths = (tiny_llama.ln_final.w[:, None] * tiny_llama.unembed.W_U).norm(dim=0)
        best = float((logits / lengths).max() / direction.norm())
        (view,) = inspect_latents(tiny_llama, own, [5], IDS.tolist())
        assert (view.site, view.index) == (own.site, 5)
        assert decoder_tokens(tiny_llama, own, 5)["cosine"].max() == pytest.approx(best, rel=1e-3)
    assert decoder_tokens(tiny_llama, inside, 5).empty


def test_what_does_not_fit_is_said(tiny_llama):
    d = tiny_llama.cfg.d_model
    w = random_weights("transcoder", d, out=d - 1)
    with pytest.raises(MismatchError, match="writes"):
        Dictionary(sae_of("transcoder", w), READ, write_name=WRITE).check(tiny_llama)
    with pytest.raises(SiteError, match="comes to before"):
        random_transcoder("blocks.1.hook_resid_post", WRITE, d).check(tiny_llama)
    with pytest.raises(SiteError, match="near"):
        random_transcoder(READ, "blocks.9.hook_mlp_out", d).check(tiny_llama)
    assert (
        Dictionary(sae_of("topk", random_weights("topk", d)), READ).digest != random_transcoder(READ, WRITE, d).digest
    )
