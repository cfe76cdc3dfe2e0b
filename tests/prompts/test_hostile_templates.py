"""Chat templates are code from strangers: whatever one does, it is our own error, soon, and in little memory."""

import os
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from support.chat_templates import PUBLISHED, published
from support.checkpoints import tokenizer

from mechsurgery.errors import InputError, PromptError
from mechsurgery.models import tokens
from mechsurgery.prompts import Examples, Prompt, Template, encode, render, response_text, turn_tokens
from mechsurgery.prompts.budget import Budget
from mechsurgery.prompts.jinja import _INSTEAD

CHATS = [
    [("user", "How do I bake a cake?")],
    [("system", " Be kind. "), ("user", "Hi there ")],
    [("user", "a"), ("assistant", "<think>\nx\n</think>\n\nb"), ("user", "c\n")],
    [("system", "s"), ("user", "a <b>"), ("assistant", "b"), ("user", "x"), ("assistant", "é漢🦊"), ("user", "  z ")],
    [("user", "a < b & c"), ("user", "{{ messages }} {% raw %}")],
]


def hostile(template):
    own = tokenizer()
    own.chat_template = template
    return own


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_templates_write_what_transformers_writes(name):
    own = published(name)
    for chat in CHATS:
        given = [{"role": role, "content": text} for role, text in chat]
        told = {"enable_thinking": False, "date_string": "1 Jan 2020"}
        try:
            expected = own.apply_chat_template(given, tokenize=False, add_generation_prompt=True, **told)
        except Exception:
            assert name in ("gemma 2", "gemma 3", "mistral")
            continue
        prompt = Prompt("1", "x", messages=tuple(chat))
        template = Template(arguments={"date_string": "1 Jan 2020"})
        assert render(own, prompt, template=template) == expected
        if not any("<think>" in text for _, text in chat):
            assert encode(own, [prompt], template=template) == [own.encode(expected, add_special_tokens=False)]


ALL = """
import resource, sys, time
from support.checkpoints import tokenizer
from support.hostile_templates import BOMBS
from mechsurgery.errors import PromptError
from mechsurgery.prompts import budget, encode
budget.SECONDS = 0.2
own, said, before = tokenizer(), [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for template in BOMBS:
    own.chat_template, began = template, time.thread_time()
    try:
        encode(own, ["Hello"])
    except PromptError as error:
        said.append(str(error))
    assert time.thread_time() - began < 2.5, template[:80]
assert len(said) > 0.85 * len(BOMBS)
assert all("template='plain'" in text or "surrogate" in text for text in said)
unit = 2**20 if sys.platform == "darwin" else 2**10
assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit < 400
print(len(said))
"""


def test_whatever_a_template_does_it_is_an_error_of_ours_and_soon():
    """In a process of its own, whose memory is its own, too."""
    where = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", ALL],
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100


def test_a_bomb_that_waits_for_its_prompt_is_stopped_too_and_in_any_thread():
    own = hostile("{% if 'now' in messages[-1].content %}{{ 'a' * 10**10 }}{% endif %}{{ messages[-1].content }}")
    assert render(own, "later") == "later"
    caught = []

    def run():
        with pytest.raises(PromptError, match="stopped"):
            render(own, "now")
        caught.append(True)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caught) == 4


def test_long_chats_have_room_and_too_long_ones_are_refused_at_once():
    own = published("qwen 3")
    many = tuple((("user", "assistant")[i % 2], f"turn {i} " * 20) for i in range(401))
    given = [{"role": role, "content": text} for role, text in many]
    expected = own.apply_chat_template(given, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert render(own, Prompt("1", "x", messages=many)) == expected
    assert len(render(own, "word " * 200_000)) > 1_000_000
    began = time.monotonic()
    with pytest.raises(PromptError, match="allowed"):
        Prompt("1", "x" * 10_000_000)
    assert time.monotonic() - began < 1
    assert Budget(10_000).made > 64 * 10_000


@pytest.mark.parametrize("template", ["", "  ", "{{ '' }}", "{% for m in [] %}{% endfor %}"])
def test_a_template_that_writes_nothing_is_refused(template):
    with pytest.raises(PromptError, match="writes nothing"):
        encode(hostile(template), ["Hello"])


def test_templates_that_are_no_text_or_have_no_default_are_refused():
    for value in ({"tool_use": "x"}, 5, ["x"]):
        with pytest.raises(PromptError, match="no chat template that can be used|and no text|fails"):
            encode(hostile(value), ["Hello"])
    assert "template='plain'" in _INSTEAD


def test_a_system_text_that_the_template_leaves_out_goes_into_the_first_turn():
    own = hostile("{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}{% endfor %}")
    assert render(own, "Hi", template=Template(system="Be kind.")) == "[user] Be kind.\n\nHi"
    own = hostile("{% for m in messages %}[{{ m.role }}] {{ m.content|upper }}{% endfor %}")
    assert render(own, "Hi", template=Template(system="Be kind.")) == "[system] BE KIND.[user] HI"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% set form = '%d %b %Y' %}{{ strftime_now(form) }} {{ messages[-1].content }}", "strftime_now"),
        (
            "{% set f = '%d.%m.%Y' %}{% if not date_string %}{% set date_string = strftime_now(f) %}{% endif %}"
            "{{ date_string }} {{ messages[-1].content }}",
            "date_string",
        ),
        ("{% macro day(f) %}{{ strftime_now(f) }}{% endmacro %}{{ day('%Y') }}{{ day('%j') }} hi", "strftime_now"),
        ("{% set unused = strftime_now('%Y') %}{{ messages[-1].content }}", None),
    ],
)
def test_a_date_is_frozen_by_what_is_written_not_by_how_it_is_asked_for(template, name):
    own = hostile(template)
    frozen = Template().frozen(own)
    assert list(frozen.arguments) == ([] if name is None else [name])
    assert render(own, "Hi", template=frozen) == render(own, "Hi")
    assert frozen.frozen(own) == frozen
    if name is not None:
        assert str(datetime.now().year) in render(own, "Hi", template=frozen)


def test_hostile_texts_roles_and_token_ids_are_refused():
    own = tokenizer()
    with pytest.raises(PromptError, match="NUL"):
        Prompt("1", "a\0b")
    with pytest.raises(PromptError, match="surrogate"):
        Prompt("1", "a", messages=(("user", "\ud800"),))
    for role in ("</s>", "a b", "", "x" * 50, "s"):
        with pytest.raises(PromptError, match="role"):
            encode(own, [Prompt("1", "a", messages=((role, "a"),))])
    for act in (turn_tokens, response_text):
        for wrong in ([-1], [2**40]):
            with pytest.raises(InputError, match="token"):
                act(own, wrong)
    with pytest.raises(PromptError, match="negative"):
        Examples(((1, -1),), ((2,),))
    with pytest.raises(InputError, match="at least 0"):
        tokens.check_lengths([[1, -1]])
