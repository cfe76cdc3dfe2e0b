"""Reading latents: contexts and densities equal a plain pass, and pages are safe and need no network."""

import numpy as np
import pytest
import torch
from support.dictionaries import random_dictionary

from mechsurgery import PromptSet
from mechsurgery.errors import InputError, SiteError
from mechsurgery.inspector import decoder_tokens, inspect_latents
from mechsurgery.plots.heatmaps import TokenHeatmaps
from mechsurgery.prompts import encode

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def dictionary(tiny_llama):
    return random_dictionary(SITE, tiny_llama.cfg.d_model, k=3)


def test_contexts_are_where_it_is_most_active(tiny_llama, dictionary, contrast):
    prompts = contrast.positive
    kept = {}
    each = []
    for row in encode(tiny_llama.tokenizer, prompts):
        with torch.no_grad(), tiny_llama.hooks(fwd_hooks=[(SITE, lambda a, hook: kept.update(a=a[0]))]):
            tiny_llama(torch.tensor([row]))
        each.append(dictionary.encode(kept["a"]).numpy())
    joined = np.concatenate(each)
    latent = int((joined > 0).sum(0).argmax())
    views = inspect_latents(tiny_llama, dictionary, [latent, 0], prompts, top=3, max_rows=5)
    view = views[0]
    assert view.facts["density"] == pytest.approx((joined[:, latent] > 0).mean())
    assert view.facts["n_tokens"] == len(joined)
    assert view.facts["largest"] == pytest.approx(joined[:, latent].max(), rel=1e-4)
    peaks = [own[:, latent].max() for own in each]
    best = int(np.argmax(peaks))
    assert view.contexts["prompt_id"].iloc[0] == prompts.ids[best]
    assert view.contexts["position"].iloc[0] == int(each[best][:, latent].argmax())
    assert view.contexts["activation"].is_monotonic_decreasing
    assert set(view.figures()) == {"tokens"}
    assert view.summary()["unit"] == f"random/{latent}"


def test_tokens_are_by_cosine_with_the_unembedding(tiny_llama, dictionary):
    table = decoder_tokens(tiny_llama, dictionary, 5, top=4)
    unembedding = tiny_llama.ln_final.w[:, None] * tiny_llama.unembed.W_U
    cosine = torch.cosine_similarity(unembedding, dictionary.decoder[5][:, None], dim=0).detach()
    np.testing.assert_allclose(table["cosine"][:4], cosine.sort(descending=True).values[:4], atol=1e-5)
    np.testing.assert_allclose(table["cosine"][4:], cosine.sort().values[:4].flip(0), atol=1e-5)


def test_a_latent_that_is_none(tiny_llama, dictionary):
    with pytest.raises(SiteError, match="latents 0 to 47"):
        inspect_latents(tiny_llama, dictionary, [48], PromptSet.from_texts(["a"]))


def test_neuronpedia_is_linked_where_the_id_is_known(tiny_llama, contrast):
    known = random_dictionary(SITE, tiny_llama.cfg.d_model)
    known.sae.cfg.metadata.neuronpedia_id = "gemma-2-2b/20-gemmascope-res-16k"
    (view,) = inspect_latents(tiny_llama, known, [3], contrast.positive)
    assert view.neuronpedia == "https://www.neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/3"
    assert view.neuronpedia in view._repr_html_()


def test_heat_maps_escape_texts_and_load_nothing():
    bad = "</script><img src=x onerror=alert(1)>"
    page = TokenHeatmaps([(bad, ["a", bad], [0.5, -1.0])])
    fragment = page.fragment()
    assert bad not in fragment
    assert "<img" not in fragment
    assert "unpkg" not in page._repr_html_()
    assert page._repr_html_().count("</script>") == 2
    assert "CircuitsVis" in page.script()
    with pytest.raises(InputError, match="one of each"):
        TokenHeatmaps([("x", ["a"], [1.0, 2.0])])
