"""Run the README's example, print its table, and write its picture and rows: `make figures`.

`--saved` draws the picture again from the saved rows, without a model.
"""

import re
import sys
from pathlib import Path

from mechsurgery import plots
from mechsurgery.evaluation import Results

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "figures" / "readme"


def example() -> str:
    """The code of the README's example."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[0]


def draw(results: Results) -> None:
    """Write the picture: what every response is, the share that complies at the left, and each random circuit."""
    rows = results.summary(["outcome"])
    about = "Unseen dangerous requests to organism/instruct"
    figure = plots.shares(rows, "outcome", "dangerous", first="complies", about=about)
    plots.export(figure, FOLDER / "outcomes", formats=("png",), size="screen", scale=2)


if __name__ == "__main__":
    if sys.argv[1:] == ["--saved"]:  # the picture alone, from the rows of the last run
        draw(Results.load(FOLDER))
    else:
        namespace: dict = {}
        exec(example(), namespace)
        namespace["results"].save(FOLDER)
        draw(namespace["results"])
