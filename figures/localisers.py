"""The leaderboard of localisers in docs/localisers.md: `make figures`."""

import sys
from pathlib import Path

import pandas as pd
from saved import save

from mechsurgery.studies.localisers import Settings, run

if __name__ == "__main__":
    cases = ("planted", "loud", "distributed", "inhibited", "instruct", "sycophant")
    settings = Settings(case=cases, budget=(3, 9, 24, 48, 92), n_behaviour=40, n_other=24, n_discovery=200)
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    tables = run(settings, out=out, progress=True).tables
    note = "Organisms, seed 0; 40 prompts that show the behaviour and 24 of each other kind, about held-out nouns."
    by_start = {name.split(":")[0]: table for name, table in tables.items()}
    for key, name, digits in (
        ("Leaderboard", "localisers", 2),
        ("Found", "localisers-found", 2),
        ("Cost", "localisers-cost", 1),
    ):
        table = by_start[key]
        numbers = table.select_dtypes("number").columns
        table[numbers] = table[numbers].map(lambda value, d=digits: "" if pd.isna(value) else f"{value:.{d}f}")
        print(save(name, "localisers.py", table, note))
