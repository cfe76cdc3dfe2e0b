"""Valid files of every kind the package reads, and ways to damage them."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from mechsurgery import Circuit, ContrastSet, Direction, PromptSet, Results, UnitScores, WeightDelta, load_sae
from mechsurgery.attribution import ContrastStatistics
from mechsurgery.attribution.statistics import Moments
from mechsurgery.delta_parts import Dense, LowRank, Rows
from mechsurgery.evaluation.table import COLUMNS, typed
from mechsurgery.plots import Drawing, draw, load_drawings, save_drawings
from mechsurgery.prompts import Prompt
from mechsurgery.reports import Page, Part, Study
from mechsurgery.training.kept import trained

SITES = [f"blocks.{layer}.mlp.hook_post" for layer in range(2)]


@dataclass(frozen=True)
class Kind:
    """A file (or folder) of some kind: how it is made and read, and what of it is to be equal again.

    `exact` says that a file which was changed anywhere is either refused or read as it was.
    """

    name: str
    make: Any
    read: Any
    same: Any
    exact: bool = True


def _values(seed, n=8):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def _scores():
    return UnitScores({site: _values(i) for i, site in enumerate(SITES)}, "difference", {"model": "m", "n": 3})


def _circuit():
    widths = dict.fromkeys(SITES, 8)
    units = {SITES[0]: (torch.tensor([1, 4]), torch.tensor([0.5, -2.0]))}
    return Circuit(units, widths, "few", {"why": "a test"}, {SITES[1]: torch.tensor([7])})


def _delta():
    rows = Rows(torch.tensor([0, 2]), _values(1, 8).reshape(2, 4), 0, 8)
    low = LowRank(_values(2, 8).reshape(4, 2), _values(3, 16).reshape(2, 8), (4, 8))
    return WeightDelta({"a.W_out": rows, "a.W_in": low, "a.b": Dense(_values(4))}, "cure", {"fingerprint": "f"})


def _statistics():
    def side(seed):
        names = dict.fromkeys(SITES, 3)
        return Moments(names, *({s: _values(seed + i).double().abs() for i, s in enumerate(SITES)} for _ in "ab"))

    return ContrastStatistics(side(1), side(5), {"model": "m"})


def _prompts(name="asked"):
    chat = Prompt("c", "", "g", messages=(("user", "hé"), ("assistant", "ho")), system="be brief")
    choice = Prompt("q", "Which? A) one B) two", choices=("A", "B"), answer=1)
    return PromptSet(name, (Prompt("007", "Tell me, a joke", label="x", completion="no"), chat, choice))


def _contrast():
    return ContrastSet.from_lists(["a bomb", "a poison"], ["a cake", "a soup"], name="sides")


def results():
    """A table of two prompts, before and after an ablation."""
    rows = [
        {"intervention": name, "kind": kind, "prompt_id": f"p{i}", "group": f"p{i}", "value": value, "response": said}
        for name, kind, value, said in (("baseline", "baseline", 1.0, "no"), ("few", "scaling", 0.0, "yes"))
        for i in range(2)
    ]
    facts = {"model": "m", "fingerprint": "f", "strength": 0.0, "seed": 0, "prompt_set": "set", "scale": "rate"}
    table = pd.DataFrame(rows).assign(metric="refusal", label="", m=1.0, toward=0.0, **facts)
    texts = pd.DataFrame({"prompt_set": "set", "prompt_id": ["p0", "p1"], "text": ["one", "two"]})
    return Results(typed(table.reindex(columns=list(COLUMNS))), {"labels": {"outcome": ["a", "b"]}}, texts)


def _drawings():
    return {
        "profile": draw("circuit_profile", {"few": _circuit()}),
        "loss": draw("loss_curves", {"a": [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}]}),
        "done": Drawing("a figure as it is", (json.loads(go.Figure().to_json()),)),
    }


def study():
    """A small finished study."""
    tables = {"Claims: all": pd.DataFrame({"claim": ["c"], "verdict": ["held"], "n": [2]})}
    page = Page("It held.", "profile", ("Does it?",), (Part("One", ("text",), ("Claims",), ("profile",)),))
    return Study(tables, _drawings(), {"main": results()}, {"few": _circuit()}, {"title": "T"}, page)


def _save_study(folder):
    with patch.object(Study, "report", return_value=""):  # pictures and pages are not read back
        study().save(folder)
    return folder


def _saved(noun, name):
    return lambda folder: noun().save(folder / name)


def _text(name, content):
    def make(folder):
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / name

    return make


def _parquet(folder):
    pd.DataFrame({"text": ["one", "two", "three"], "id": ["a", "b", "007"]}).to_parquet(folder / "p.parquet")
    return folder / "p.parquet"


def _kept(folder):
    trained(folder, "k" * 32, _delta)
    return folder / "deltas" / f"{'k' * 32}.safetensors"


def _state(noun):
    """Everything a noun holds as plain values, to be compared."""
    if isinstance(noun, pd.DataFrame):
        return noun.to_json()
    if isinstance(noun, torch.Tensor):
        return (str(noun.dtype), noun.tolist())
    if isinstance(noun, dict):
        return {repr(key): _state(one) for key, one in noun.items()}
    if isinstance(noun, (list, tuple)):
        return [_state(one) for one in noun]
    if hasattr(noun, "__dict__"):
        return (type(noun).__name__, _state({k: v for k, v in vars(noun).items() if k != "draw"}))
    return repr(noun)


def _gemma(folder):
    arrays = {"w_enc": (6, 12), "w_dec": (12, 6), "b_enc": (12,), "b_dec": (6,), "threshold": (12,)}
    where = folder / "gemma-scope-2b-pt-res" / "layer_1"
    where.mkdir(parents=True)
    np.savez(where / "params.npz", **{name: np.full(shape, 0.5, np.float32) for name, shape in arrays.items()})
    return where


def _llama(folder):
    from safetensors.torch import save_file

    (folder / "checkpoints").mkdir()
    arrays = {"encoder.weight": (12, 6), "decoder.weight": (6, 12), "encoder.bias": (12,), "decoder.bias": (6,)}
    save_file({n: torch.full(s, 0.5) for n, s in arrays.items()}, folder / "checkpoints" / "final.safetensors")
    facts = {"hook_point_in": "blocks.1.hook_resid_post", "hook_point_out": "blocks.1.hook_resid_post"}
    facts |= {"dataset_average_activation_norm": {"in": 3.0}, "jump_relu_threshold": 0.2}
    (folder / "hyperparams.json").write_text(json.dumps(facts))
    return folder


def _sparsify(folder):
    from safetensors.torch import save_file

    where = folder / "layers.1"
    where.mkdir()
    arrays = {"encoder.weight": (12, 6), "W_dec": (12, 6), "encoder.bias": (12,), "b_dec": (6,)}
    save_file({n: torch.full(s, 0.5) for n, s in arrays.items()}, where / "sae.safetensors")
    (where / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 3, "d_in": 6}))
    return where


def kinds():
    """Every kind of file."""
    text = {
        "csv": 'text,id\nTell me,a\n"two, three",b\n',
        "tsv": "text\tid\none\ta\ntwo\tb\n",
        "json": json.dumps([{"text": "one", "id": 7}, {"text": "two", "id": 8}]),
        "jsonl": '{"text": "one", "id": "a"}\n{"text": "two", "id": "b"}\n',
        "txt": "one\ntwo\n",
    }
    nouns = [
        Kind("UnitScores", _saved(_scores, "s"), UnitScores.load, _state),
        Kind("Circuit", _saved(_circuit, "c"), Circuit.load, _state),
        Kind("Direction", _saved(lambda: Direction({"hook_embed": _values(9)}, "d"), "d"), Direction.load, _state),
        Kind("WeightDelta", _saved(_delta, "w"), WeightDelta.load, _state),
        Kind("kept fine-tune", _kept, WeightDelta.load, _state),
        Kind("statistics", _saved(_statistics, "st"), ContrastStatistics.load, _state),
        Kind("PromptSet", _saved(_prompts, "p.json"), PromptSet.load, _state),
        Kind("ContrastSet", _saved(_contrast, "c.json"), ContrastSet.load, _state),
        Kind("Results", _saved(results, "r"), Results.load, _state),
        Kind("drawings", lambda folder: (save_drawings(folder / "d", _drawings()), folder / "d")[1], _draw, _state),
        Kind("study", lambda folder: _save_study(folder / "s"), Study.load, _state),
    ]
    nouns += [
        Kind(f".{end}", _text(f"p.{end}", one), lambda path: PromptSet.from_file(path, id="id"), _state, exact=False)
        for end, one in text.items()
        if end != "txt"
    ]
    nouns += [
        Kind(".txt", _text("p.txt", text["txt"]), PromptSet.from_file, _state, exact=False),
        Kind(".parquet", _parquet, lambda path: PromptSet.from_file(path, id="id"), _state, exact=False),
        Kind("Gemma Scope", _gemma, _dictionary, str, exact=False),
        Kind("Llama Scope", _llama, _dictionary, str, exact=False),
        Kind("sparsify", _sparsify, _dictionary, str, exact=False),
    ]
    return {one.name: one for one in nouns}


def _dictionary(path):
    return load_sae(path).sae.W_dec.shape


def _draw(folder):
    drawings, captions = load_drawings(folder)
    for one in drawings.values():
        one.figure()
    return drawings, captions


#: What JSON values are replaced by.
ODD = [
    *(None, True, -1, 0, 10**30, 2**63, 1.5, float("nan"), float("inf"), "", "x", "\ud800", "a\x00b", "\u202e", "12"),
    *(
        [],
        {},
        [[]],
        [None],
        {"a": 1},
        {"": {}},
        ["x"] * 3,
        "x" * 5000,
        [[[[]]]],
        "../up",
        -0.0,
        [1, "a"],
        {"$": "table"},
    ),
]


def damage(path: Path, how: str, chance: random.Random) -> None:
    """Damage one file of a file or folder, in a way of this name."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    victim = chance.choice(files)
    content = victim.read_bytes()
    victim.write_bytes(_damaged(victim, content, how, chance))


DAMAGES = ("flip", "flips", "cut", "insert", "double", "zeros", "other", "json", "header", "old")


def _damaged(path: Path, content: bytes, how: str, chance: random.Random) -> bytes:
    own = bytearray(content)
    at = chance.randrange(max(1, len(own)))
    if how in ("flip", "flips") and own:
        for _ in range(1 if how == "flip" else chance.randrange(2, 20)):
            own[chance.randrange(len(own))] ^= 1 << chance.randrange(8)
        return bytes(own)
    if how == "cut":
        return content[:at] if chance.random() < 0.5 else content[at:]
    if how == "insert":
        return content[:at] + chance.randbytes(chance.randrange(1, 9)) + content[at:]
    if how == "double":
        return content + content
    if how == "zeros":
        return content[:at] + bytes(min(64, len(own) - at)) + content[at + 64 :]
    if how == "other":
        return chance.choice(OTHERS)
    if how == "old":
        return _old(path, content, chance)
    if how == "header" and path.suffix == ".safetensors" and len(content) > 8:
        return _header(content, chance)
    if how == "json" and path.suffix in (".json", ".jsonl"):
        try:
            return _json(content.decode(), chance).encode("utf-8", "surrogatepass")
        except ValueError:
            return content[:at]
    return content[:at]


def _old(path: Path, content: bytes, chance: random.Random) -> bytes:
    """A file as of before there were checksums, with something in it changed: only its schema is there to tell."""
    if path.suffix == ".safetensors" and len(content) > 8:
        n = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + n])
        own = json.loads(header.get("__metadata__", {}).get("mechsurgery", "{}"))
        if "facts" in own:
            facts = {"kind": own["kind"], "facts": _mutated(json.loads(own["facts"]), chance)}
            header["__metadata__"] = {"mechsurgery": json.dumps(facts)}
        else:
            header = _mutated(header, chance)
        new = json.dumps(header).encode("utf-8", "surrogatepass")
        return len(new).to_bytes(8, "little") + new + content[8 + n :]
    if path.suffix == ".json":
        whole = json.loads(content)
        whole = {k: v for k, v in whole.items() if k != "checksum"} if isinstance(whole, dict) else whole
        return json.dumps(_mutated(whole, chance)).encode("utf-8", "surrogatepass")
    return chance.choice(OTHERS)


OTHERS = [
    *(b"", b"\x00" * 64, b"PK\x03\x04", b"PAR1", b"[" * 100_000, b'{"a":' * 5000, b"9" * 5000, b"NaN", b"null", b"[]"),
    *(
        b"\xff\xfe" * 9,
        b"\xef\xbb\xbf{}",
        b'"\\ud800"',
        b"text\n\x00\n",
        b"\x80\x04]",
        b'{"a": 1, "a": 2}',
        b"{}",
        b"1e999",
    ),
    *(b"\xff" * 8 + b"{}", (1 << 40).to_bytes(8, "little") + b"{}", b"a,b\n1\n", b'"', b"text\n" + b'"' * 9, b"\r\r\r"),
]


def _mutated(value: Any, chance: random.Random) -> Any:
    """A JSON value with one thing in it replaced, left out, added or doubled."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(sorted(value))
        what = chance.random()
        rest = {k: v for k, v in value.items() if k != key}
        if what < 0.15:
            return rest
        if what < 0.25:
            return {**rest, key + chance.choice(["", "x", "\x00", "\ud800"]): value[key]}
        if what < 0.35:
            return {**value, chance.choice(["extra", "", "$", "kind", "files"]): chance.choice(ODD)}
        return {**value, key: _mutated(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        what = chance.random()
        if what < 0.2:
            return value[:at] + value[at + 1 :]
        if what < 0.4:
            return [*value, value[at]]
        return [*value[:at], _mutated(value[at], chance), *value[at + 1 :]]
    return chance.choice(ODD)


def _json(text: str, chance: random.Random) -> str:
    try:
        return json.dumps(_mutated(json.loads(text), chance))
    except ValueError:
        lines = text.splitlines()
        at = chance.randrange(len(lines))
        lines[at] = json.dumps(_mutated(json.loads(lines[at]), chance))
        return "\n".join(lines)


def _header(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file with another header: places, shapes, dtypes, or what this package keeps in it."""
    n = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n])
    own = header.get("__metadata__", {})
    if own and chance.random() < 0.6 and "mechsurgery" in own:
        facts = _mutated(json.loads(own["mechsurgery"]), chance)
        if (
            isinstance(facts, dict)
            and isinstance(facts.get("facts"), str)
            and facts["facts"][:1] == "{"
            and chance.random() < 0.3
        ):
            facts["facts"] = json.dumps(_mutated(json.loads(facts["facts"]), chance))
        header["__metadata__"] = {"mechsurgery": json.dumps(facts)}
    else:
        header = _mutated(header, chance)
    new = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(new).to_bytes(8, "little") + new + content[8 + n :]
