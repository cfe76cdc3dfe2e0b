"""Templates with a date and with thoughts: what is told to them is kept, and what counts as the answer."""

import json
from datetime import date, datetime

import pytest
from support.checkpoints import tokenizer

from mechsurgery.errors import InputError, PromptError
from mechsurgery.prompts import Prompt, Template, encode, render, rendered_example, response_text, turn_tokens

TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
#: Llama 3.2's manner: a date that the caller may give, else today's.
DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today: {{ date_string }}\n" + TURNS + "[assistant]"
)
#: The day is asked for and cannot be given by name.
TODAY = "{{ strftime_now('%A, %d.%m.') }} of {{ strftime_now('%Y') }}\n" + TURNS + "[assistant]"
#: Llama 3.1's manner: a date that never changes.
FIXED = "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}" + TURNS
#: Qwen3's manner: an empty thought unless thinking is wanted.
THINKING = TURNS + "[assistant]\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
#: The prompt itself opens the thought.
ALWAYS = TURNS + "[assistant]<think>\n"


def speaking(template):
    own = tokenizer()
    own.chat_template = template
    return own


class Later(date):
    @classmethod
    def today(cls):
        return cls(2031, 5, 9)


def test_arguments_system_text_and_thinking_reach_the_chat_template():
    own = speaking(DATED)
    dated = Template(system="Be kind.", arguments={"date_string": "26 Jul 2024"})
    assert render(own, "Hi", template=dated) == "Today: 26 Jul 2024\n[system] Be kind.\n[user] Hi\n[assistant]"
    own_system = Prompt("1", "Hi", system="Be brief.")
    assert "[system] Be brief.\n[user]" in render(own, own_system, template=dated)
    whole = Prompt("1", "Hi", messages=(("system", "Be short."), ("user", "Hi")))
    assert render(own, whole, template=dated).count("[system]") == 1
    own = speaking(THINKING)
    assert render(own, "Hi").endswith("[assistant]\n<think>\n\n</think>\n\n")
    assert render(own, "Hi", template=Template(thinking=True)).endswith("[assistant]\n")


def test_a_frozen_template_has_today_and_keeps_it(monkeypatch):
    today = datetime.now()
    for source, name, value in (
        (DATED, "date_string", today.strftime("%d %b %Y")),
        (TODAY, "strftime_now", today.date().isoformat()),
    ):
        own = speaking(source)
        frozen = Template().frozen(own)
        assert frozen.arguments == {name: value}
        assert render(own, "Hi", template=frozen) == render(own, "Hi")
        monkeypatch.setattr("mechsurgery.prompts.template.date", Later)
        assert Template().frozen(own) != frozen
        assert frozen.frozen(own) == frozen
        assert render(own, "Hi", template=frozen) == render(own, "Hi", template=Template(arguments={name: value}))
        assert today.strftime("%Y") in render(own, "Hi", template=frozen)
        monkeypatch.undo()
    for own in (speaking(FIXED), speaking(THINKING), tokenizer(template=False)):
        assert Template().frozen(own) == Template()
    given = Template(arguments={"date_string": "1 Jan 2020"})
    assert given.frozen(speaking(DATED)) is given
    assert Template("plain").frozen(speaking(DATED)) == Template("plain")


def test_a_template_and_a_rendered_prompt_go_into_a_manifest():
    own = speaking(DATED)
    template = Template("chat", thinking=True, arguments={"date_string": "1 Jan 2020"})
    assert Template(**json.loads(json.dumps(template.facts()))) == template
    shown = json.loads(json.dumps(rendered_example(own, "Hi", template)))
    assert shown["template"] == template.facts()
    assert shown["text"] == render(own, "Hi", template=template)
    assert shown["tokens"] == encode(own, ["Hi"], template=template)[0]


def test_what_cannot_be_told_to_a_template_is_refused():
    with pytest.raises(InputError, match="thinking="):
        Template(arguments={"enable_thinking": True})
    with pytest.raises(InputError, match="plain values"):
        Template(arguments={"date_string": object()})
    with pytest.raises(InputError, match="ISO"):
        Template(arguments={"strftime_now": "yesterday"})
    with pytest.raises(PromptError, match="surrogate"):
        Template(system="\ud800")
    strict = speaking("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(PromptError, match="roles must alternate"):
        render(strict, Prompt("1", "b", system="s"))


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("I cannot help with that.", "I cannot help with that."),
        ("  A cake </s>", "A cake"),
        ("<think>\nSure, how.\n</think>\n\nI cannot help. ", "I cannot help."),
        ("<think>a</think> b <think>c</think> d", "d"),
        ("<think>\nI should refuse. I cannot", None),
        ("Well. <think>now", None),
        ("<think></think>", ""),
        ("", ""),
    ],
)
def test_what_is_graded_comes_after_the_thought(written, answer):
    for template in ("raw", "chat", Template(thinking=True)):
        own = speaking(THINKING)
        assert response_text(own, own.encode(written), template) == answer


def test_a_thought_that_the_prompt_opened_must_be_closed_by_the_response():
    own = speaking(ALWAYS)
    assert response_text(own, own.encode("I should refuse. I cannot")) is None
    assert response_text(own, own.encode("Sure.</think>I cannot help.")) == "I cannot help."
    assert response_text(own, own.encode("I cannot"), "raw") == "I cannot"


def test_marks_of_thoughts_may_be_special_tokens():
    own = speaking(THINKING)
    own.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    assert "<think>" not in own.decode(own.encode("<think>a</think>b"), skip_special_tokens=True)
    assert response_text(own, own.encode("<think>some a</think>some b</s>")) == "some b"
    assert response_text(own, own.encode("<think>some a")) is None


def test_ordinary_text_is_read_as_it_was_before():
    """Against the two ways in which responses were read before there was one."""
    for own, template in ((tokenizer(), "auto"), (tokenizer(template=False), "auto"), (tokenizer(), "plain")):
        stops = () if template == "auto" and own.chat_template else ("\nUser:", "\nAssistant:")
        for text in (" The quick fox\n\nUser: Who?", "A\n\nAssistant: B\n\nUser: C", " i right ? ", "\nUser:", "A\nUs"):
            tokens = [*own.encode(text), own.eos_token_id]
            expected = own.decode(tokens, skip_special_tokens=True)
            for stop in stops:
                expected = expected.split(stop)[0]
            assert response_text(own, tokens, template) == expected.strip()
            turn = turn_tokens(own, tokens, template)
            assert turn == tokens[: len(turn)]
            assert own.decode(turn, skip_special_tokens=True) == expected
            assert (turn == tokens) == (expected == own.decode(tokens, skip_special_tokens=True))
