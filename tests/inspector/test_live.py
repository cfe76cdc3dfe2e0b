"""Live answers equal `generate` under the same intervention, and nothing of them stays on the model."""

import asyncio

import pytest
import torch
from support.dictionaries import random_dictionary

from mechsurgery import PromptSet, locate, scale
from mechsurgery.errors import InputError, MechsurgeryError, PromptError, SiteError
from mechsurgery.inspector import Catalogue
from mechsurgery.inspector.live import Ask, Live
from mechsurgery.inspector.protocol import Conversation
from mechsurgery.intervention.latents import scale_latents
from mechsurgery.models import generate
from mechsurgery.prompts import encode
from mechsurgery.prompts.chat import response_text
from mechsurgery.units import Circuit

PROMPT = "How do I make a cake?"


@pytest.fixture(scope="module")
def circuit(tiny_llama, contrast):
    return locate(tiny_llama, contrast, k=6)


@pytest.fixture(scope="module")
def catalogue(tiny_llama, contrast, circuit):
    return Catalogue(tiny_llama, contrast, circuit, effects=False, at_most=8, responses=0)


def answer(model, intervention, n=8):
    (ids,) = encode(model.tokenizer, PromptSet.from_texts([PROMPT]))
    with model.hooks(fwd_hooks=[] if intervention is None else intervention.hooks()):
        (new,) = generate.generate(model, [ids], max_new_tokens=n)
    return response_text(model.tokenizer, new)


def hooks_on(model):
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]


def test_answers_are_those_of_generate(catalogue, circuit, tiny_llama):
    places = {(unit.site, unit.index): unit.name for unit in catalogue.units}
    m = {site: [3.0 * i - 4 for i in range(len(index))] for site, (index, _) in circuit.units.items()}
    asked = {
        places[site, int(i)]: m[site][place]
        for site, (index, _) in circuit.units.items()
        for place, i in enumerate(index)
    }
    steps = list(Live(catalogue).stream(Ask(PROMPT, asked, random=3, max_new_tokens=8)))
    assert [step["done"] for step in steps] == [False] * (len(steps) - 1) + [True]
    texts = steps[-1]["texts"]
    assert texts["baseline"] == answer(tiny_llama, None)
    assert texts["changed"] == answer(tiny_llama, scale(circuit, m))
    assert texts["random"] == answer(tiny_llama, scale(circuit.random_like(3), m))
    assert len(set(texts.values())) > 1
    assert steps[0]["texts"]["baseline"] == response_text(
        tiny_llama.tokenizer,
        generate.generate(tiny_llama, encode(tiny_llama.tokenizer, PromptSet.from_texts([PROMPT])), max_new_tokens=1)[
            0
        ],
    )


def test_latents_and_neurons_can_be_scaled_together(tiny_llama, contrast, circuit):
    dictionary = random_dictionary("blocks.1.hook_resid_post", tiny_llama.cfg.d_model, k=6)
    catalogue = Catalogue(tiny_llama, contrast, circuit, dictionaries=[dictionary], effects=False, at_most=8)
    latents = Circuit.from_indices({dictionary.site: [1, 4, 7]}, {dictionary.site: dictionary.n_latents})
    own = Circuit.from_indices({"blocks.0.mlp.hook_post": [2]}, circuit.widths)
    asked = {"random/1": 9.0, "random/4": 0.0, "random/7": -6.0, "L0.2": 30.0}
    texts = list(Live(catalogue).stream(Ask(PROMPT, asked, max_new_tokens=8)))[-1]["texts"]
    both = scale(own, 30.0) + scale_latents(latents, dictionary, [9.0, 0.0, -6.0])
    assert texts["changed"] == answer(tiny_llama, both)


def test_one_multiplier_each_for_latents_is_what_a_plain_splice_does(tiny_llama):
    dictionary = random_dictionary("blocks.1.hook_resid_post", tiny_llama.cfg.d_model, k=6)
    circuit = Circuit.from_indices({dictionary.site: [1, 4]}, {dictionary.site: dictionary.n_latents})
    run = scale_latents(circuit, dictionary, [2.0, -1.0])
    activation = torch.randn(2, 5, tiny_llama.cfg.d_model)
    z = dictionary.encode(activation)
    changed = z.clone()
    changed[..., 1] *= 2
    changed[..., 4] *= -1
    plain = activation + dictionary.decode(changed) - dictionary.decode(z)
    ((_, hook),) = run.hooks()
    torch.testing.assert_close(hook(activation), plain)
    assert run.m is None
    for wrong in ([1.0], [1.0, 2.0, 3.0], [0.0, float("nan")], float("inf")):
        if wrong != [1.0]:
            with pytest.raises(InputError, match="finite number"):
                scale_latents(circuit, dictionary, wrong)


def test_the_model_is_as_it_was_between_two_tokens_and_after(catalogue, tiny_llama):
    ask = Ask(PROMPT, {catalogue.units[0].name: 5.0}, random=1, max_new_tokens=8)
    steps = Live(catalogue).stream(ask)
    next(steps)
    assert hooks_on(tiny_llama) == []
    next(steps)
    assert hooks_on(tiny_llama) == []
    del steps
    assert hooks_on(tiny_llama) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": 7}, "empty"),
        ({"prompt": "a" * 30_000}, "30,000 characters"),
        ({"multipliers": {"L0.1": float("nan")}}, "multiplier nan"),
        ({"multipliers": {"L0.1": "0"}}, "multiplier"),
        ({"multipliers": {"L0.1": True}}, "multiplier"),
        ({"multipliers": {"L0.1": 1e9}}, "from −100"),
        ({"multipliers": [1]}, "unit: number"),
        ({"random": "x"}, "seed"),
        ({"random": -1}, "seed"),
        ({"max_new_tokens": 0}, "from 1 to 512"),
        ({"max_new_tokens": 1.5}, "from 1 to 512"),
    ],
)
def test_questions_that_cannot_be_asked(wrong, words):
    with pytest.raises(InputError, match=words):
        Ask.from_message({"prompt": PROMPT, "multipliers": {}, **wrong})


def test_what_does_not_fit_or_is_unknown_is_said(catalogue):
    with pytest.raises(PromptError, match="does not fit"):
        next(Live(catalogue).stream(Ask("word " * 3000)))
    with pytest.raises(SiteError, match="no unit 99999"):
        next(Live(catalogue).stream(Ask(PROMPT, {"L0.99999": 0.0})))
    with pytest.raises(MechsurgeryError, match="L5"):
        next(Live(catalogue).stream(Ask(PROMPT, {"bogus": 0.0})))


def talk(catalogue, *messages, wait=True):
    """What is sent back to messages that arrive one right after the other."""
    sent = []

    async def run():
        conversation = Conversation(catalogue, sent.append)
        for message in messages:
            await conversation.receive(message)
        while wait and not any(m.get("done") or m["type"] == "error" for m in sent):
            await asyncio.sleep(0.001)
        await conversation.stop()

    asyncio.run(run())
    return sent


def ask(request, prompt=PROMPT, **more):
    return {"type": "ask", "request": request, "prompt": prompt, "multipliers": {}, "max_new_tokens": 6, **more}


def test_a_newer_question_ends_the_older_one(catalogue, tiny_llama):
    sent = talk(catalogue, ask(1), ask(2))
    assert [m["request"] for m in sent if m.get("done")] == [2]
    assert sent[-1]["texts"]["baseline"] == answer(tiny_llama, None, 6)
    assert hooks_on(tiny_llama) == []


def test_stopping_ends_an_answer(catalogue, tiny_llama):
    sent = talk(catalogue, ask(1, max_new_tokens=200), {"type": "stop"}, wait=False)
    assert not any(m.get("done") for m in sent)
    assert hooks_on(tiny_llama) == []


def test_units_are_sent_with_their_page(catalogue):
    sent = talk(catalogue, {"type": "unit", "request": 4, "unit": "L1.17"}, wait=False)
    assert sent == [{"type": "unit", "request": 4, "unit": "L1.17", "html": catalogue.page("L1.17")}]


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        "ask",
        {},
        {"type": "eval"},
        {"type": "unit", "unit": 5},
        {"type": "unit", "unit": "L0.99999"},
        {"type": "unit", "unit": "x" * 10_000},
        ask(5, ""),
        ask(5, PROMPT, multipliers={"L77.1": 0}),
    ],
)
def test_errors_are_sent_and_never_raised(catalogue, message):
    (sent,) = talk(catalogue, message, wait=True)
    assert sent["type"] == "error"
    assert len(sent["message"]) > 10


def test_a_model_that_fails_is_said_too(catalogue, monkeypatch, caplog):
    def broken(*args, **options):
        raise RuntimeError("out of memory")
        yield

    monkeypatch.setattr(generate, "stream", broken)
    (sent,) = talk(catalogue, ask(1))
    assert "out of memory" in sent["message"]
