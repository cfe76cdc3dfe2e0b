"""Random checkpoints of real models' shapes, for benchmarks."""

import argparse
from pathlib import Path

import torch

#: SmolLM-135M: the smallest well-known model of Llama's architecture. `small` is for machines without time.
SHAPES = {
    "smollm-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "llama-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "small": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
}
N_WORDS = 4000


def parser_of(doc: str) -> argparse.ArgumentParser:
    """A parser of what every benchmark takes: a shape and a device."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="smollm-135m")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def peak_memory(device: str = "cpu") -> float:
    """Peak memory of this process so far in MiB (`getrusage` would also count that of the process that began it)."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10


def checkpoint(folder: Path, shape: str = "smollm-135m") -> Path:
    """A random checkpoint of a shape with a word-level tokenizer (w0 … w3999), without a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = ["<pad>", "<s>", "</s>", "<unk>", "User", "Assistant", ":", *(f"w{i}" for i in range(N_WORDS))]
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    print(f"model: {shape}, {sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters")
    return folder
