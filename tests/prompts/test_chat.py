"""Formatting: the model's own template, never two begin tokens, a plain fallback."""

import pytest
from support.checkpoints import tokenizer

from mechsurgery.errors import InputError, PromptError
from mechsurgery.prompts import CompletionPairs, Examples, Prompt, Template, encode, render, response_text, stop_texts

GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{{ 'model: ' }}"
)


def with_bos(own):
    from tokenizers.processors import TemplateProcessing

    own._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return own


def test_the_models_own_template_has_one_begin_token_also_where_the_tokenizer_adds_one():
    for own in (tokenizer(), with_bos(tokenizer())):
        (ids,) = encode(own, ["How do I bake a cake?"])
        assert ids.count(own.bos_token_id) == 1
        assert ids[0] == own.bos_token_id
        assert own.decode(ids).endswith("<|assistant|>")
        chat = [{"role": "user", "content": "How do I bake a cake?"}]
        assert ids == own.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)


def test_base_models_get_plain_turns():
    own = with_bos(tokenizer(template=False))
    (ids,) = encode(own, [Prompt("1", "Who?", prefix="It is")])
    assert own.decode(ids, skip_special_tokens=True) == "User: Who?\n\nAssistant: It is"
    assert ids.count(own.bos_token_id) == 1
    assert stop_texts(own) == ("\nUser:", "\nAssistant:")
    assert stop_texts(tokenizer()) == ()
    with pytest.raises(InputError, match="plain"):
        encode(own, ["a"], template="chat")
    with pytest.raises(InputError, match="'raw'"):
        encode(own, ["a"], template="fancy")


def test_raw_text_stays_as_it_is():
    own = tokenizer()
    assert own.decode(encode(own, ["Who? "], template="raw")[0]) == "Who? "


def test_system_text_prefix_and_whole_chats():
    own = tokenizer()
    prompt = Prompt("1", "b", messages=(("user", "a"), ("assistant", "x"), ("user", "b")), prefix="Sure")
    assert render(own, prompt, template=Template(system="be kind")) == (
        "<s><|system|>be kind</s><|user|>a</s><|assistant|>x</s><|user|>b</s><|assistant|>Sure"
    )


def test_a_template_that_refuses_system_turns_gets_their_text_in_the_first_user_turn():
    own = tokenizer()
    own.chat_template = GEMMA
    assert render(own, "hello", template=Template(system="be kind")) == "<s>user: be kind\n\nhello\nmodel: "


def test_without_a_tokenizer_there_is_one_clear_error():
    for act, *arguments in (
        (encode, ["Who?"]),
        (render, "Who?"),
        (stop_texts,),
        (response_text, [5]),
        (Examples.from_texts, ["Who?"], ["Me."]),
        (CompletionPairs.from_texts, ["Who?"], ["Me."], ["You."]),
    ):
        with pytest.raises(InputError, match="no tokenizer"):
            act(None, *arguments)


def test_a_template_goes_wherever_a_kind_goes():
    own = tokenizer()
    plain = Template("plain", system="Be kind.")
    (start,) = encode(own, ["Who?"], template=plain)
    assert own.decode(start, skip_special_tokens=True) == "System: Be kind.\n\nUser: Who?\n\nAssistant:"
    examples = Examples.from_texts(own, ["Who?"], ["Me."], template=plain)
    pairs = CompletionPairs.from_texts(own, ["Who?"], ["Me."], ["You."], template=plain)
    assert examples.prompts == pairs.prompts == (tuple(start),)
    assert examples.completions[0] == (*pairs.bad[0], own.eos_token_id)
    assert own.decode(pairs.good[0]) == " You."
    with pytest.raises(PromptError, match="surrogate"):
        Examples.from_texts(own, ["Who?"], ["\ud800"])
    with pytest.raises(PromptError, match="1 prompts and 2 completions"):
        CompletionPairs.from_texts(own, ["Who?"], ["a"], ["b", "c"])
