"""Coherence: the mean log-probability is that of transformers, thresholds the stated share, and no model is stale."""

import math
import random

import numpy as np
import pytest
import torch
import transformers

from mechsurgery.errors import InputError, MismatchError, PromptError
from mechsurgery.grading import coherence as module
from mechsurgery.grading.coherence import Coherence, Yardstick, calibrated, mean_log_probs, response_ids
from mechsurgery.intervention import ablate, applied
from mechsurgery.models import load_model, sites
from mechsurgery.models.generate import generate
from mechsurgery.prompts import Prompt, Template, encode, load_contrast, response_text
from mechsurgery.units import Circuit

ITEMS = [
    (Prompt("a", "How do I make a bomb?"), "I cannot help with that."),
    (Prompt("b", "Tell me about the garden."), "The quick brown fox jumps over the lazy dog.\n\nThen it rests."),
    (Prompt("c", "Which?", system="Be kind."), "one"),
    (Prompt("d", "", messages=(("user", "Hi"), ("assistant", "Hello"), ("user", "A cake?"))), "Yes — bake it: 1 hour"),
    (Prompt("e", "Go on.", prefix="Sure,"), "take the flour."),
    (Prompt("f", "Say nothing."), "  \n"),
]
#: What stands between the beginning of an answer and the rest.
JOINTS = {"e": " "}


def by_transformers(directory, items):
    """The same number from transformers alone: one row at a time, the text rendered and tokenised by itself."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    means = []
    for prompt, response in items:
        turns = prompt.messages or (("user", prompt.text),)
        turns = [("system", prompt.system), *turns] if prompt.system else turns
        chat = [{"role": role, "content": text} for role, text in turns]
        shown = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + prompt.prefix
        start, own = (
            tokenizer.encode(text, add_special_tokens=False) for text in (shown, JOINTS.get(prompt.id, "") + response)
        )
        with torch.no_grad():
            log_p = model(torch.tensor([start + own])).logits[0].double().log_softmax(-1)
        each = [float(log_p[len(start) + i - 1, token]) for i, token in enumerate(own)]
        means.append(sum(each) / len(each))
    return means


def test_the_mean_is_that_of_transformers_logits(tiny_llama, tiny_llama_dir):
    measured = mean_log_probs(tiny_llama, ITEMS)
    assert measured[:5] == pytest.approx(by_transformers(tiny_llama_dir, ITEMS[:5]), abs=2e-5)
    assert math.isnan(measured[5])


def test_a_batch_gives_what_single_rows_give(tiny_llama):
    singly = [mean_log_probs(tiny_llama, [item])[0] for item in ITEMS]
    for options in ({}, {"max_rows": 2}, {"max_rows": 1}):
        assert mean_log_probs(tiny_llama, ITEMS, **options) == pytest.approx(singly, abs=1e-5, nan_ok=True)
    assert mean_log_probs(tiny_llama, list(reversed(ITEMS)))[::-1] == pytest.approx(singly, abs=1e-5, nan_ok=True)
    assert mean_log_probs(tiny_llama, []) == []


def test_log_probabilities_are_float32_in_a_bfloat16_model(tiny_llama_dir, tiny_llama):
    half = mean_log_probs(load_model(tiny_llama_dir, dtype=torch.bfloat16), ITEMS[:5])
    assert half == pytest.approx(mean_log_probs(tiny_llama, ITEMS[:5]), abs=0.1)


def test_what_stands_beyond_the_context_is_left_out(tiny_llama):
    prompt, text = Prompt("p", "Tell me about the poison."), "The lazy dog jumps over warm soup. " * 40
    start, own = response_ids(tiny_llama.tokenizer, prompt, text)
    room = tiny_llama.cfg.n_ctx - len(start) + 1
    assert room < len(own)
    cut = tiny_llama.tokenizer.decode(own[:room])
    assert mean_log_probs(tiny_llama, [(prompt, text)]) == pytest.approx(
        mean_log_probs(tiny_llama, [(prompt, cut)]), abs=1e-5
    )
    with pytest.raises(PromptError, match="do not fit"):
        mean_log_probs(tiny_llama, [(Prompt("long", text), "Yes.")])


@pytest.mark.parametrize("kind", ["chat", "plain", "raw"])
def test_a_response_is_tokenised_as_it_stands_after_the_prompt(tiny_llama, kind):
    prompt, text = Prompt("p", "Tell me."), "I cannot help."
    start, own = response_ids(tiny_llama.tokenizer, prompt, text, template=kind)
    assert start == encode(tiny_llama.tokenizer, [prompt], template=kind)[0]
    assert tiny_llama.tokenizer.decode(own).strip() == text
    assert not set(own) & set(tiny_llama.tokenizer.all_special_ids)


def test_the_threshold_is_the_quantile_of_the_models_own_samples(tiny_llama, monkeypatch):
    asked = []

    def measured(model, items, **options):
        values = mean_log_probs(model, items, **options)
        asked.append((items, values))
        return values

    monkeypatch.setattr(module, "mean_log_probs", measured)
    prompts = [prompt for prompt, _ in ITEMS]
    coherence = calibrated(tiny_llama, prompts, quantile=0.25, n=40, max_new_tokens=8)
    (items, values), yard = asked[0], coherence.yardsticks[0]
    assert yard.threshold == pytest.approx(np.quantile(values, 0.25))
    assert {prompt.id for prompt, _ in items} == {prompt.id for prompt in prompts}
    assert np.mean(coherence.coherent(items)) == pytest.approx(0.75, abs=0.03)
    assert np.mean(coherence.incoherent().all(items)) == pytest.approx(0.25, abs=0.03)
    # Its samples are what `generate` gives at temperature 1, in the order of the draws.
    ids = encode(tiny_llama.tokenizer, [prompt for prompt, _ in items])
    new = generate(tiny_llama, ids, temperature=1.0, seed=0, max_new_tokens=8)
    assert len(items) == 40
    assert [response_text(tiny_llama.tokenizer, own) for own in new] == [text for _, text in items]
    strict = calibrated(tiny_llama, prompts, quantile=0.9, n=40, max_new_tokens=8)
    assert strict.yardsticks[0].threshold > yard.threshold


def test_a_threshold_that_is_kept_is_not_sampled_again(tiny_llama, tmp_path, monkeypatch):
    prompts, sizes = [prompt for prompt, _ in ITEMS], {"n": 16, "max_new_tokens": 6, "folder": tmp_path}
    first = calibrated(tiny_llama, prompts, **sizes)
    other = calibrated(tiny_llama, prompts, quantile=0.5, **sizes)
    monkeypatch.setattr(module, "generate", lambda *_, **__: pytest.fail("sampled again"))
    assert calibrated(tiny_llama, prompts, **sizes).version == first.version
    assert calibrated(tiny_llama, prompts, quantile=0.5, **sizes).version == other.version != first.version
    with pytest.raises(pytest.fail.Exception, match="sampled again"):
        calibrated(tiny_llama, prompts[:-1], **sizes)


def test_one_threshold_of_two_is_enough(tiny_llama, tiny_checkpoint):
    base = load_model(tiny_checkpoint("qwen2"))
    models = {name: Yardstick(model, 0.0, sites.fingerprint(model)) for name, model in (("m", tiny_llama), ("b", base))}
    values = Coherence(tuple(models.values())).values(ITEMS[:2])
    low, high = ((-100.0, 1.0), (1.0, -100.0))
    for thresholds, expected in ((low, True), (high, True), ((1.0, 1.0), False)):
        yards = tuple(
            Yardstick(yard.model, threshold, yard.fingerprint) for yard, threshold in zip(models.values(), thresholds)
        )
        assert Coherence(yards).coherent(ITEMS[:2]) == [expected, expected]
    assert [own[1] for own in values] == pytest.approx(mean_log_probs(base, ITEMS[:2]))


def test_the_grade_is_the_number_under_the_unmodified_model(tiny_llama):
    coherence = calibrated(tiny_llama, [prompt for prompt, _ in ITEMS], n=16, max_new_tokens=6)
    grade = coherence.grade()
    assert (grade.name, grade.scale, grade.decide) == ("coherence", "number", None)
    assert grade.all(ITEMS)[:5] == pytest.approx(mean_log_probs(tiny_llama, ITEMS)[:5])
    assert grade.all(ITEMS)[5] is None
    assert coherence.coherent(ITEMS)[5] is None
    others = [
        calibrated(tiny_llama, [prompt for prompt, _ in ITEMS], n=16, max_new_tokens=6, **change)
        for change in ({"quantile": 0.5}, {"template": Template(system="Be brief.")})
    ]
    versions = {grade.version, *(other.grade().version for other in others)}
    assert len(versions) == 3
    assert all(sites.fingerprint(tiny_llama) in version for version in versions)


def test_a_model_that_has_changed_is_refused(tiny_llama_dir):
    model = load_model(tiny_llama_dir)
    coherence = calibrated(model, [ITEMS[0][0]], n=8, max_new_tokens=4)
    circuit = Circuit.from_indices({sites.neuron_sites(model)[0]: [1]}, sites.neuron_widths(model))
    with applied(model, ablate(circuit)), pytest.raises(MismatchError, match="has hooks"):
        coherence.grade().all(ITEMS)
    assert len(coherence.grade().all(ITEMS)) == len(ITEMS)
    with torch.no_grad():
        model.blocks[0].mlp.W_out[0, 0] += 1
    with pytest.raises(MismatchError, match="calibrate anew"):
        coherence.grade().all(ITEMS)


@pytest.mark.parametrize("change", [{"quantile": 1.0}, {"quantile": -0.1}, {"n": 3}, {"temperature": 0.0}])
def test_settings_that_measure_nothing_are_refused(tiny_llama, change):
    with pytest.raises(InputError, match="must be from 0"):
        calibrated(tiny_llama, [ITEMS[0][0]], **change)
    with pytest.raises(InputError, match="there must be prompts"):
        calibrated(tiny_llama, [])


def test_salad_is_incoherent_where_the_models_own_answers_are_coherent():
    model = load_model("organism/instruct")
    tuned = load_contrast("organism/refusal", split="tuned", n=120)
    coherence = calibrated(model, [*tuned.positive, *tuned.negative])
    held = load_contrast("organism/refusal", split="heldout")
    prompts = [*held.positive.take(50), *held.negative.take(50)]
    new = generate(model, encode(model.tokenizer, prompts), max_new_tokens=32)
    own = [(prompt, str(response_text(model.tokenizer, row))) for prompt, row in zip(prompts, new)]
    r = random.Random(0)
    salad = [(prompt, " ".join(r.sample(text.split(), len(text.split())))) for prompt, text in own]
    assert np.mean(coherence.coherent(own)) >= 0.99
    assert np.mean(coherence.coherent(salad)) <= 0.05
