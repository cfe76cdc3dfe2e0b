"""Files and folders appear whole or not at all, leftovers of killed processes go, and the disk's errors are ours."""

import errno
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from mechsurgery import artifacts, writing
from mechsurgery.errors import InputError, WriteError


def everything(folder):
    return sorted(path.name for path in folder.iterdir())


WRITERS = {
    "text": lambda path: artifacts.write_text(path, "x" * 99_999),
    "json": lambda path: artifacts.save_json(path, list(range(20_000))),
    "table": lambda path: artifacts.save_table(path, pd.DataFrame({"a": torch.rand(20_000).numpy()})),
    "tensors": lambda path: artifacts.save_tensors(path, "x", {"a": torch.rand(20_000)}, {}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_a_write_error_and_leaves_the_old_file(kind, tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.safetensors"
    path.write_text("old")
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"a\.safetensors.*too large.*raise the limit"):
            WRITERS[kind](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_text() == "old"
    assert everything(tmp_path) == ["a.safetensors"]


def test_what_stands_in_the_way_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    refused = {
        tmp_path / "folder.json": "a folder is in its place",
        tmp_path / "file" / "a.json": "a file is where a folder should be",
        tmp_path / "loop" / "a.json": "a file is where a folder should be",
    }
    for path, reason in refused.items():
        with pytest.raises(WriteError, match=reason):
            artifacts.save_json(path, {})
    for path in ("a\0b", "\ud800", tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match="give a path"):
            artifacts.save_json(path, {})
        with pytest.raises((InputError, WriteError), match="give a path|give a shorter name"):
            writing.write_atomically(path, lambda _: None)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WriteError, match="Permission denied; give a folder that you may write in"):
        artifacts.save_json(tmp_path / "a.json", {})
    assert everything(tmp_path) == ["file", "folder.json", "loop"]


def test_half_a_surrogate_pair_is_its_number_in_json(tmp_path):
    content, written = {"a\ud800": "é\udfff", "b": "é"}, {"a\\ud800": "é\\udfff", "b": "é"}
    assert artifacts.load_json(artifacts.save_json(tmp_path / "a.json", content)) == written
    path = artifacts.save_document(tmp_path / "d.json", "thing", {"of": content})
    assert artifacts.load_document(path, "thing", None, "") == {"of": written}
    assert "é" in artifacts.save_json(tmp_path / "b.json", {"b": "é"}).read_text(encoding="utf-8")


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(os.readlink(f"/proc/self/fd/{handle}")))
    plain = os.replace
    monkeypatch.setattr(os, "replace", lambda *given: (seen.append("moved"), plain(*given)))
    artifacts.save_json(tmp_path / "a.json", {})
    assert seen[0].endswith("a.json")
    assert seen[1:] == ["moved", str(tmp_path)]
    seen.clear()
    with writing.new_directory(tmp_path / "new") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("x")
    assert [path.rpartition("-new")[2] for path in seen] == ["/inner", "/inner/a", "", str(tmp_path)]


CHILD = """
import sys, time
from mechsurgery import writing

def forever(path):
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(60)

if sys.argv[2] == "file":
    writing.write_atomically(sys.argv[1] + "/a.json", forever)
else:
    with writing.new_directory(sys.argv[1] + "/a") as folder:
        forever(folder / "x")
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_a_killed_process_left_goes_and_nothing_else(kind, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), kind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    child.stdout.readline()
    (tmp_path / ".mechsurgery-notes").write_text("somebody's own")
    other = tmp_path / ".mechsurgery-00000000-1-1-00000000-of-another-machine"
    old = tmp_path / ".mechsurgery-00000000-1-1-00000001-long-ago"
    other.write_text("x")
    old.write_text("x")
    os.utime(old, (time.time() - 9 * 86400,) * 2)

    def written(name):
        writing._looked.clear()
        with writing.new_directory(tmp_path / name):
            pass
        return [path for path in everything(tmp_path) if path.startswith(".mech")]

    assert len(written("while it runs")) == 3
    child.kill()
    child.wait()
    child.stdout.close()
    assert written("afterwards") == [other.name, ".mechsurgery-notes"]


def test_a_new_directory_takes_nobodys_place(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(InputError, match="exists"), writing.new_directory(tmp_path / name):
            pass

    def meanwhile():
        with writing.new_directory(tmp_path / "new") as folder:
            (folder / "a").write_text("x")
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "other").write_text("another process")

    with pytest.raises(WriteError, match="new"):
        meanwhile()
    assert everything(tmp_path / "new") == ["other"]
    assert everything(tmp_path) == ["file", "folder", "link", "new"]
