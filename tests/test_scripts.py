"""What benchmarks and figures' scripts import exists: no other test runs them, and a renamed function broke one."""

import ast
import importlib.util
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted([*(TESTS / "benchmarks").glob("*.py"), *(TESTS.parent / "figures").glob("*.py")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_name_that_a_script_imports_exists(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mechsurgery":
            module = importlib.import_module(node.module)
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            missing = [name for name in missing if importlib.util.find_spec(f"{node.module}.{name}") is None]
            assert not missing, f"{node.module} has no {missing}"
