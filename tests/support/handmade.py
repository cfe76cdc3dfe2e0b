"""Tiny Llamas written by hand, in which known neurons alone decide what is said after an exclamation mark."""

import torch

from mechsurgery.prompts import ContrastSet

from . import checkpoints

#: Channels of the residual stream that only these neurons touch.
MARK, CONST, ANSWER, ASIDE = range(4)
YES, NO = 20, 21
_WORDS = ("cake", "garden", "letter", "soup", "fox", "dog")


def excitement():
    """Requests that end in an exclamation mark against others that end in a question mark; read them raw."""
    texts = [[f"{verb} the {noun}{end}" for verb in ("Tell", "Explain") for noun in _WORDS] for end in "!?"]
    return ContrastSet.from_lists(*texts, name="excitement")


@torch.no_grad()
def save(directory, neurons, *, n_layers=3):
    """Write a model; `neurons` are (layer, index, channel, by how much it raises it after an exclamation mark)."""
    import transformers

    config = checkpoints.config("llama", num_hidden_layers=n_layers, intermediate_size=32)
    model = transformers.LlamaForCausalLM(config)
    checkpoints.randomise(model)
    tokenizer, own = checkpoints.tokenizer(), model.model
    for layer in own.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.fill_(1)
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            weight *= 0.2
            weight[:4] = 0
    own.norm.weight.fill_(1)
    own.embed_tokens.weight *= 0.5
    own.embed_tokens.weight[:, :4] = 0
    own.embed_tokens.weight[:, CONST] = 2
    own.embed_tokens.weight[tokenizer.convert_tokens_to_ids("!"), MARK] = 5
    head = model.lm_head.weight
    head *= 0.1
    head[:, :4] = 0
    head[[YES, NO]] = 0
    head[YES, ANSWER], head[YES, ASIDE], head[NO, CONST] = 3, 1, 3
    for layer, index, channel, rise in neurons:
        mlp = own.layers[layer].mlp
        for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
            weight[index] = 0
            weight[index, MARK] = 1
        mlp.down_proj.weight[:, index] = 0
        # After the norm the mark is about 4, so the neuron about 16.
        mlp.down_proj.weight[channel, index] = rise / 16
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
