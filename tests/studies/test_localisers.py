"""The benchmark of localisers: areas by hand, every localiser on one case, a localiser of one's own, a user's model."""

import pandas as pd
import pytest
import torch

from mechsurgery.attribution import localisers as registry
from mechsurgery.attribution.localisers import LOCALISERS, PUBLISHED, RANDOM, Localiser
from mechsurgery.errors import InputError
from mechsurgery.studies import localisers
from mechsurgery.studies.localisers.data import CASES
from mechsurgery.studies.localisers.study import area, leaderboard, rank_correlation, run_case
from mechsurgery.units import UnitScores

FEW = {"budget": (9, 48), "n_behaviour": 8, "n_other": 6, "n_discovery": 24, "exact": False}


def test_the_area_is_the_mean_over_sizes_on_a_logarithmic_axis():
    k = pd.Series([1, 10, 100])
    assert area(k, pd.Series([0.0, 1.0, 1.0])) == pytest.approx(0.75)
    assert area(k[::-1], pd.Series([1.0, 1.0, 0.0])) == pytest.approx(0.75)
    assert area(pd.Series([5]), pd.Series([0.3])) == pytest.approx(0.3)


def test_the_leaderboard_sorts_by_the_mean_over_cases():
    rows = [
        {"case": case, "localiser": name, "k": k, "well": well, "benign well": 1 - well / 2}
        for case in ("a", "b")
        for name, well in (("good", 0.8), ("bad", 0.2))
        for k in (2, 8)
    ]
    rows.append({"case": "a", "localiser": "baseline", "k": 0, "well": 0.0, "benign well": 1.0})
    table = leaderboard(pd.DataFrame(rows))
    assert table["localiser"].tolist() == ["good", "bad"]
    assert table["mean"].tolist() == pytest.approx([0.8, 0.2])
    assert table["kept"].tolist() == pytest.approx([0.6, 0.9])


def test_scores_that_rank_as_the_oracle_agree_with_it():
    oracle = UnitScores({"blocks.0.mlp.hook_post": torch.tensor([0.1, 3.0, -2.0])}, "exact")
    other = UnitScores({"blocks.0.mlp.hook_post": torch.tensor([1.0, 2.0, -9.0])}, "other")
    assert rank_correlation(other, oracle) == pytest.approx(1)
    flat = UnitScores({"blocks.0.mlp.hook_post": torch.zeros(3)}, "flat")
    assert rank_correlation(flat, oracle) == 0


def test_a_recorded_gate_has_precision_and_a_truth_beside_it(monkeypatch, tmp_path):
    monkeypatch.setitem(LOCALISERS, "mine", Localiser(registry._random, "positive"))
    names = (PUBLISHED, "gate gradient", "weight change from the base", RANDOM, "mine")
    settings = localisers.Settings(case=("planted",), localiser=names, **FEW)
    study = localisers.run(settings, out=tmp_path)
    board = study.tables["Leaderboard: area under answers done well against size"].set_index("localiser")
    assert set(board.index) == set(names)
    assert board.loc["mine", "mean"] == board.loc[RANDOM, "mean"]
    assert board.loc["gate gradient", "mean"] > board.loc[PUBLISHED, "mean"]
    found = study.tables["Found: precision and recall at the size of what is recorded"].set_index("localiser")
    assert found.loc["weight change from the base", "planted"] == 1
    curve = study.tables["Sizes: outcomes of every localiser at every size"]
    truth = curve[curve["localiser"] == "recorded neurons"].iloc[0]
    assert truth["well"] == 1
    assert truth["k"] == 48
    assert (tmp_path / "report.html").is_file()
    lines = study.figures["sizes_planted"].data
    assert {PUBLISHED, "recorded neurons"} <= {str(line.name).replace("<br>", " ") for line in lines}

    def never(*args, **options):
        raise AssertionError("located again")

    monkeypatch.setattr(registry, "gate_gradient", never)
    monkeypatch.setattr(registry, "score", never)
    _, _, again = run_case("planted", CASES["planted"], settings, tmp_path, False)
    for name, own in again.items():
        first = study.artefacts[f"planted {name}"]
        assert own.info["cost"] == first.info["cost"] or name == "mine"
        assert all(torch.equal(own.scores[site], values) for site, values in first.scores.items())


def test_a_model_of_ones_own_needs_its_prompts(tmp_path):
    with pytest.raises(InputError, match="--positive"):
        localisers.Settings(model="organism/planted")
    with pytest.raises(InputError, match="no localiser"):
        localisers.Settings(localiser=("absent",))
    with pytest.raises(InputError, match="numbers of units"):
        localisers.Settings(budget=())


def test_two_files_of_prompts_are_a_case(tmp_path):
    from mechsurgery.organisms import world

    files = {}
    for kind in ("dangerous", "benign"):
        texts = [{"text": record["text"]} for record in world.requests(kind, "tuned")[:60]]
        files[kind] = tmp_path / f"{kind}.csv"
        pd.DataFrame(texts).to_csv(files[kind], index=False)
    settings = localisers.Settings(
        model="organism/planted",
        positive=str(files["dangerous"]),
        negative=str(files["benign"]),
        localiser=(PUBLISHED, "gate gradient"),
        **FEW,
    )
    study = localisers.run(settings)
    curve = study.tables["Sizes: outcomes of every localiser at every size"]
    assert set(curve["case"]) == {"planted"}
    assert curve[curve["localiser"] == "baseline"]["shows"].iloc[0] > 0.9


def test_who_leads_is_undecided_where_chance_alone_may_give_the_lead():
    from mechsurgery.studies.localisers.page import verdict_of

    board = pd.DataFrame({"localiser": ["a", "b", PUBLISHED], "mean": [0.8, 0.7, 0.1]})
    assert verdict_of(board, 2, 20).startswith("Undecided: no localiser leads by more than 0.22")
    assert verdict_of(board, 2, 200).startswith("Held: one localiser leads by more than 0.07")
    assert "the published rule has 0.10 (mean over 2 cases, 200 prompts)" in verdict_of(board, 2, 200)
    assert verdict_of(board.head(1), 1, 9).startswith("Undecided")
