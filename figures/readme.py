"""Run the README's example, print its table, and write its picture and rows: `make figures`."""

import re
from pathlib import Path

from mechsurgery import plots

ROOT = Path(__file__).parents[1]


def example() -> str:
    """The code of the README's example."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[0]


if __name__ == "__main__":
    namespace: dict = {}
    exec(example(), namespace)
    results = namespace["results"]
    results.save(ROOT / "figures" / "readme")
    figure = plots.shares(
        results.summary(["outcome"]),
        "outcome",
        "dangerous",
        first="complies",
        about="Unseen dangerous requests to organism/instruct",
    )
    plots.export(figure, ROOT / "figures" / "readme" / "outcomes", formats=("png",), size="screen", scale=2)
