"""The organisms' tokenizer: a token for every word, with a chat template."""

from __future__ import annotations

from typing import Any

from ..checks import check_arguments
from .corpus import vocabulary

PAD, BOS, END, UNKNOWN, USER, ASSISTANT, SYSTEM = range(7)
SPECIAL = ("<pad>", "<bos>", "<end>", "<unk>", "<user>", "<assistant>", "<system>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ ' <' + message['role'] + '> ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant>' }}{% endif %}"
)


def words() -> list[str]:
    """The vocabulary in order: a word's place is its token."""
    return [*SPECIAL, *vocabulary()]


def make_tokenizer() -> Any:
    """A transformers tokenizer over `words()`; punctuation is split off, unknown words become `<unk>`."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    index = {word: i for i, word in enumerate(words())}
    own = Tokenizer(models.WordLevel(index, unk_token=SPECIAL[UNKNOWN]))
    own.normalizer = normalizers.NFKC()
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[.,?!:;]"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[END],
        unk_token=SPECIAL[UNKNOWN],
        additional_special_tokens=[SPECIAL[USER], SPECIAL[ASSISTANT], SPECIAL[SYSTEM]],
        chat_template=TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


check_arguments(__name__, inner=True)
