"""Where a unit stands under several rules, for figures of it."""

import pandas as pd


def ranks(rules, site, index):
    rows = [(name, s.score_of(site, index), s.rank_of(site, index) + 1, len(s)) for name, s in rules.items()]
    return pd.DataFrame(rows, columns=["rule", "score", "rank", "of"])
