"""What of a model directory goes with its weights into a new one: plain text files, and nothing that can run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..checks import check_arguments
from .reading import ADAPTER

#: Configuration, tokenizer, templates, and what a reader should see.
_PLAIN = (".json", ".txt", ".model", ".jinja", ".md", ".tiktoken")
_NAMED = ("license", "notice", "readme", "copying", "use_policy")
#: Weights, which are written anew or are those of another program: left out without a word.
_WEIGHTS = (".safetensors", ".index.json", ".gguf", ".onnx", ".h5", ".msgpack")


def copy_plain_files(source: Path, target: Path) -> list[str]:
    """Copy what is plain of a directory and its folders; the names of what was left out, weights and `.…` apart.

    Left out are code, pickles, adapters, links that lead out of the directory, and whatever else is no text file.
    """
    left: list[str] = []
    roots = [source, *([source.parents[1] / "blobs"] if source.parent.name == "snapshots" else [])]
    for folder, folders, files in os.walk(source, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in [*folders]:
            if (Path(folder) / name).is_symlink():
                folders.remove(name)
                left.append(str((Path(folder) / name).relative_to(source)))
        for name in sorted(files):
            path = Path(folder) / name
            if name.startswith(".") or name.endswith(_WEIGHTS):
                continue
            if not _is_plain(path, roots):
                left.append(str(path.relative_to(source)))
                continue
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return left


def _is_plain(path: Path, roots: list[Path]) -> bool:
    known = path.suffix.lower() in _PLAIN or path.name.lower().startswith(_NAMED)
    where = Path(os.path.realpath(path))
    return known and path.name != ADAPTER and path.is_file() and any(where.is_relative_to(root) for root in roots)


check_arguments(__name__, inner=True)
