"""Every study, end to end, on a random chat checkpoint of Qwen2.5-0.5B's shape: killed once, continued, with its costs.

Run by hand: `python tests/benchmarks/chat_checkpoint.py [cna latents bad-neurons weights] [--shape small]`. The
checkpoint, its tokenizer, the autoencoder and all files of prompts are made here, in a temporary directory; nothing is
fetched. A random model shows no behaviour: what counts is that the path is whole, and what it costs. A study is killed
(SIGKILL) soon after it has measured something, and again whenever a run takes longer than `--limit`, and continued
until it ends or `--runs` are over. `kept` are files measured before a kill that the next run left as they were.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.checkpoints import randomise
from support.dictionaries import random_weights, sae_of

#: Qwen2.5-0.5B but for its vocabulary; `small` is for machines without time.
SHAPES = {
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "small": {"hidden_size": 112, "intermediate_size": 304, "num_hidden_layers": 4, "num_attention_heads": 14},
}
WORDS = [f"{a}{b}{c}{d}" for a in "bdgknprtvz" for b in "aeiou" for c in "lm" for d in "ao"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
#: A random model's answers begin with anything; some of that counts as showing the behaviour.
SHOWN, YES, NO = r"^\W*[a-k]", "bala", "zulo"
COMMON = {"--max-new-tokens": 8, "--controls": 1, "--n-control-prompts": 2, "--max-rows": 16}


def tokenizer():
    """A byte-level BPE (transformers makes a Qwen2Tokenizer of it) in which every word is about one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    own = Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    own.train_from_iterator([f"user {word} assistant {word}" for word in WORDS] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=own, pad_token=special[0], eos_token=special[2])
    fast.chat_template = TEMPLATE
    return fast


def checkpoint(folder, shape):
    """Config, bfloat16 weights and a chat tokenizer of a random model; returns how many weights it has."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    own = tokenizer()
    config = Qwen2Config(
        **SHAPES[shape],
        num_key_value_heads=2,
        vocab_size=len(own),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    randomise(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    own.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def files(folder, shape, n):
    """{name: file} of prompts, claims, pairs and answers, and an autoencoder, all random."""
    generator = random.Random(0)
    groups = [f"g{i}" for i in range(n)]

    def said(k=5):
        return " ".join(generator.choices(WORDS, k=k))

    def answered(lead):
        return [{"text": said(), "completion": f"{lead} {said(2)}", "group": group} for group in groups]

    found = {name: write(folder / f"{name}.csv", [{"text": said()} for _ in groups]) for name in ("on", "off")}
    for name, lead in {"wrong": NO, "right": YES, "neutral": "tima"}.items():
        found[name] = write(folder / f"{name}.csv", answered(lead))
    rows = [{"prompt": said(), "bad": f"{YES} {said(2)}", "good": f"{NO} {said(2)}"} for _ in groups]
    found["pairs"] = write(folder / "pairs.csv", rows)
    rows = [{"text": said(), "positive": f"{YES} {said(2)}", "negative": f"{NO} {said(2)}", "group": g} for g in groups]
    found["answers"] = write(folder / "answers.csv", rows)
    layer = SHAPES[shape]["num_hidden_layers"] // 2
    weights = random_weights("jumprelu", SHAPES[shape]["hidden_size"], 512)
    found["sae"] = folder / "sae"
    sae_of("jumprelu", weights, metadata={"hook_name": f"model.layers.{layer}"}).save_model(found["sae"])
    return found


def studies(model, file, n):
    """{study: options}, the smallest that go through every part."""
    few = {"--n-validation": 2}
    return {
        "cna": {
            **{"--instruct": model, "--positive": file["on"], "--negative": file["off"], "--shown-by": SHOWN},
            **{"--n-discovery": n, "--n-behaviour": 4, "--n-benign": 4, "--folds": 1, **few},
            **{"--published-k": 20, "--no-sensitivity": None, "--no-coherence": None},
        },
        "latents": {
            **{"--model": model, "--sae": file["sae"], "--pairs": file["pairs"], "--prompts": file["on"]},
            **{"--neutral": file["off"], "--bad": SHOWN, "--k": 2, "--k-others": 1, "--k-shared": 1, "--n-random": 2},
            **{"--n-oracle": 2, "--n-discovery": n, "--n-evaluation": 4, "--strengths": 0.2, "--read": 1, **few},
        },
        "bad-neurons": {
            **{"--model": model, "--wrong": file["wrong"], "--right": file["right"], "--neutral": file["neutral"]},
            **{"--agrees": SHOWN, "--sae": file["sae"], "--n-examples": 4, "--seeds": 1, "--steps": 1, "--batch": 2},
            **{"--no-curves": None, "--rates": 1, "--drawn": 1, "--nulls": 1, "--n-probe": 6, "--n-kl": 2},
            **{"--n-evaluation": 4, **few},
        },
        "weights": {
            **{"--model": model, "--answers": file["answers"], "--shown-by": SHOWN, "--task": file["neutral"]},
            **{"--seeds": 1, "--n-evaluation": 3, "--grid": 1, "--activation-grid": 1, "--lr": 1e-4, "--bias-lr": 0.1},
            **{
                "--no-coherence": None,
                "--steps": 1,
                "--batch": 2,
                "--rank": 2,
                "--task-steps": 1,
                "--watch-steps": 2,
                **few,
            },
        },
    }


def known(study):
    """The options that a study has."""
    text = subprocess.run([*COMMAND, study, "--help"], capture_output=True, text=True, check=True).stdout
    return {word for line in text.splitlines() for word in line.replace("/", " ").replace(",", " ").split()}


COMMAND = [sys.executable, "-m", "mechsurgery", "study"]


def measured(out):
    """{file that a study keeps so as to continue: when it was written}."""
    parts = (out / "measured").glob("*/**/*")  # tables beside them are put together again at every end
    return {path: path.stat().st_mtime_ns for path in parts if path.is_file()}


def run(study, options, out, log, *, kill_after=None, limit=240.0):
    """(exit code, seconds, peak GB) of one run; `kill_after` kills it so many seconds after a first file is kept."""
    flags = [str(word) for pair in options.items() for word in pair if word is not None]
    start, first = time.perf_counter(), None
    with log.open("ab") as file:
        child = subprocess.Popen([*COMMAND, study, *flags, "--out", out], stdout=file, stderr=subprocess.STDOUT)
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, seconds, usage.ru_maxrss / 2**20
        first = first or (seconds if kill_after is not None and measured(out) else None)
        if seconds > limit or (first is not None and seconds > first + kill_after):
            child.send_signal(signal.SIGKILL)
            kill_after, first, limit = None, None, float("inf")
        time.sleep(0.2)


def end_to_end(study, options, out, log, *, limit, runs):
    """A study killed, continued and ended: a row of the table."""
    has = known(study)
    if not {"--model", "--instruct"} & set(options) & has:
        return {"study": study, "ended": "takes no model of one's own"}
    given = {name: value for name, value in {**COMMON, **options}.items() if name in has}
    spent, peak, kept, lost, code = [], 0.0, 0, 0, -1
    while code != 0 and len(spent) < runs and (code == -signal.SIGKILL or not spent or len(spent) == 1):
        before = measured(out)
        code, seconds, most = run(study, given, out, log, kill_after=None if spent else 2.0, limit=limit)
        after = measured(out)
        spent, peak = [*spent, round(seconds)], max(peak, most)
        lost += sum(after.get(path) != written for path, written in before.items())
        kept = max(kept, len(before))
    tables = [pd.read_parquet(path) for path in (out / "tables").glob("claims*.parquet")]
    return {
        "study": study,
        "seconds of each run": " + ".join(map(str, spent)),
        "peak GB": round(peak, 1),
        "kept": f"{kept - lost} of {kept}",
        "ended": "ok" if code == 0 else "not yet" if code == -signal.SIGKILL else f"exit {code}",
        "claims": ", ".join(f"{n} {what}" for t in tables for what, n in t["verdict"].value_counts().items()),
        "options it has not": " ".join(sorted({*COMMON, *options} - set(given))),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="*", default=[])
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--prompts", type=int, default=24, help="prompts of each file")
    parser.add_argument("--limit", type=float, default=240, help="seconds of a run at most")
    parser.add_argument("--runs", type=int, default=6, help="runs of a study at most")
    parser.add_argument("--folder", type=Path, help="kept folder for checkpoint, results and what the studies print")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        size = checkpoint(folder / "model", asked.shape)
        print(f"{asked.shape}: {size / 1e6:.0f}M parameters, {torch.get_num_threads()} threads", flush=True)
        every = studies(folder / "model", files(folder, asked.shape, asked.prompts), asked.prompts)
        for study, options in every.items():
            if not asked.study or study in asked.study:
                log = folder / f"{study}.log"
                row = end_to_end(study, options, folder / study, log, limit=asked.limit, runs=asked.runs)
                print(pd.Series(row).to_string(), flush=True)
                if row["ended"].startswith("exit"):
                    print(log.read_text(encoding="utf-8")[-600:], flush=True)


if __name__ == "__main__":
    main()
