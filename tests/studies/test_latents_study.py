"""The latents study on organisms: tables agree with rows, the two parts share no prompt, a second run reuses all."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from mechsurgery import PromptSet, load_model
from mechsurgery.adapters.saelens import load_sae
from mechsurgery.attribution.pairs import CompletionPairs
from mechsurgery.cli import main
from mechsurgery.errors import InputError, MismatchError, PromptError
from mechsurgery.studies.latents import own_case, steering, world_case
from mechsurgery.studies.latents.ranking import ATTRIBUTION, DIFFING
from mechsurgery.studies.latents.study import DIRECTIONS, latents

OPTIONS = {
    "k": 4,
    "k_others": 2,
    "n_random": 3,
    "n_pairs": 5,
    "n_oracle": 6,
    "n_samples": 12,
    "read": 2,
    "fractions": (0.4,),
    "max_new_tokens": 14,
}
CASES = ("organism/sycophant", "organism/misinformed")


@pytest.fixture(scope="module")
def cases():
    return [world_case(name, n_discovery=24, n_validation=3, n_evaluation=4) for name in CASES]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("latents")


@pytest.fixture(scope="module")
def study(cases, out):
    return latents(cases, "organism/sae-topk-2", out=out, **OPTIONS)


def table(study, prefix):
    (name,) = (key for key in study.tables if key.startswith(prefix))
    return study.tables[name]


def test_the_tables_are_what_the_rows_say(study):
    for result in study.cases:
        for direction, sign in DIRECTIONS.items():
            rows = result.graded[direction]
            base = (rows[rows["kind"] == "baseline"]["grade"] == "bad").mean()
            found = result.effects[direction].set_index("latent")
            screened = steering.cells(
                steering.graded(result.results[f"{direction}, validation"], result.case.validation, result.case.grade)
            ).set_index("intervention")
            for latent, own in found.iterrows():
                cell = rows[rows["intervention"] == f"latent {latent}"]
                assert (len(cell) > 0) == (screened.loc[f"latent {latent}", "incoherent"] <= 0.1)
                bad, broken = (cell["grade"] == "bad").mean(), (cell["grade"] == "incoherent").mean()
                expected = sign * (bad - base) if len(cell) and broken <= 0.1 else 0
                assert own["effect"] == pytest.approx(expected)
            assert set(found[found["control"]].index).isdisjoint({i for c in result.chosen.values() for i in c})
        assert len(result.chosen[ATTRIBUTION]) == len(result.chosen[DIFFING]) == 4
    for prefix in (
        "Claims",
        "Pairs",
        "Rankings",
        "Best",
        "Oracle",
        "Fit",
        "Convergence",
        "Reading",
        "Steering",
        "Resp",
    ):
        assert len(table(study, prefix)), prefix
    assert set(table(study, "Oracle")["ranking"]) >= {ATTRIBUTION, "patching, frozen errors", "integrated gradients"}


def test_parts_share_no_group(cases):
    for case in cases:
        groups = [{p.group for p in part} for part in (case.discovery, case.validation, case.evaluation)]
        assert sum(map(len, groups)) == len(set.union(*groups))
        with pytest.raises(PromptError):
            replace(case, evaluation=case.discovery)
        with pytest.raises(PromptError):
            replace(case, validation=case.evaluation)


def test_everything_is_saved_and_a_second_run_generates_nothing(study, cases, out, monkeypatch):
    assert (out / "report.html").is_file()
    page = (out / "report.html").read_text()
    assert "CircuitsVis.render" in page
    assert "did not hold" in page.lower() or "Every claim" in page
    assert len(list((out / "tables").glob("*.csv"))) == len(study.tables)
    assert pd.read_parquet(out / "results" / "sampled_sycophant.parquet").equals(study.cases[0].sampled)
    from mechsurgery.evaluation import jobs as measure

    def never(*args, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr(measure.generation, "generate", never)
    again = latents(cases, "organism/sae-topk-2", out=out, **OPTIONS)
    pd.testing.assert_frame_equal(table(again, "Rankings"), table(study, "Rankings"))


def test_models_and_autoencoder_are_as_before(cases):
    model = load_model("organism/sycophant")
    own = load_sae("organism/sae-topk-2", model=model)
    digest, names = own.digest, set(model.hook_dict)
    twin = load_model("organism/sycophant-twin")
    case = cases[0]
    given = replace(case, model=model, twin=twin)
    latents([given], own, **OPTIONS)
    assert own.digest == digest
    for each in (model, twin):
        assert set(each.hook_dict) == names
        assert not any(point.fwd_hooks or point.bwd_hooks for point in each.hook_dict.values())
    from mechsurgery.models.sites import fingerprint

    assert fingerprint(model) == fingerprint(load_model("organism/sycophant"))


def test_q_values_and_bands():
    base = pd.DataFrame(
        {
            "intervention": "baseline",
            "kind": "baseline",
            "strength": 0.0,
            "prompt_id": [f"p{i}" for i in range(20)],
            "grade": "bad",
        }
    )

    def steered(latent, grades, strength=-0.4):
        return base.assign(intervention=f"latent {latent}", kind="latent", strength=strength, grade=grades)

    parts = [
        base,
        steered(1, "good"),
        steered(2, ["good"] * 1 + ["bad"] * 19),
        steered(3, ["incoherent"] * 20),
        steered(8, ["good"] * 2 + ["bad"] * 18),
        steered(9, "bad"),
    ]
    strengths = {1: [-0.4], 2: [-0.4], 3: [-0.4], 4: [], 8: [-0.4], 9: [-0.4]}
    table = pd.concat(parts, ignore_index=True)
    found = steering.effects(table, strengths, [8, 9], sign=-1).set_index("latent")
    assert found["effect"].tolist() == pytest.approx([1.0, 0.05, 0.0, 0.0, 0.1, 0.0])
    assert found["outside"].tolist() == [True, False, False, False, False, False]
    assert found.loc[1, "p_baseline"] == pytest.approx(2 * 0.5**20)
    assert found.loc[[1, 2, 3], "p_random"].tolist() == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert steering.effects(table, strengths, [8, 9], sign=1)["effect"].max() == 0
    p = np.array([0.001, 0.2, 0.03, 0.04])
    order = np.argsort(p)
    naive = np.empty(4)
    for rank, i in enumerate(order):
        naive[i] = min(p[j] * 4 / (r + 1) for r, j in list(enumerate(order))[rank:])
    np.testing.assert_allclose(steering.false_discovery(p), naive)


def test_the_strength_of_the_largest_coherent_effect_is_chosen():
    def cell(latent, strength, grades):
        names = [f"p{i}" for i in range(10)]
        return pd.DataFrame(
            {
                "intervention": f"latent {latent}",
                "kind": "latent",
                "strength": strength,
                "prompt_id": names,
                "grade": grades,
            }
        )

    table = pd.concat(
        [
            cell(1, -0.1, ["good"] * 2 + ["bad"] * 8),
            cell(1, -0.2, ["good"] * 5 + ["bad"] * 5),
            cell(1, -0.4, ["good"] * 8 + ["incoherent"] * 2),
            cell(2, -0.1, "bad"),
            cell(2, -0.2, "bad"),
            cell(3, -0.1, "incoherent"),
            cell(3, -0.2, "incoherent"),
        ]
    )
    assert steering.chosen_strengths(table, [1, 2, 3], sign=-1) == {1: [-0.2], 2: [-0.1], 3: []}


def test_a_case_of_ones_own_without_a_twin(tmp_path, tiny_llama_dir, tiny_llama, monkeypatch):
    from support.dictionaries import random_sae

    random_sae("blocks.1.hook_resid_post", tiny_llama.cfg.d_model, k=4).save_model(tmp_path / "sae")
    frame = pd.DataFrame({"text": [f"Question {i} about {w}?" for w in ("tea", "ink", "fog", "oak") for i in range(4)]})
    frame.to_csv(tmp_path / "prompts.csv", index=False)
    frame.assign(text="Neutral. " + frame["text"]).to_csv(tmp_path / "neutral.csv", index=False)
    rows = [{"prompt": t, "bad": "Surely <b>yes</b>", "good": "Never no"} for t in frame["text"][:3]]
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    arguments = [
        "study",
        "latents",
        "--model",
        str(tiny_llama_dir),
        "--sae",
        str(tmp_path / "sae"),
        "-k",
        "3",
        "--n-random",
        "2",
        "--max-new-tokens",
        "3",
        "--bad",
        "a",
        "--prompts",
        str(tmp_path / "prompts.csv"),
        "--neutral",
        str(tmp_path / "neutral.csv"),
        "--pairs",
        str(tmp_path / "pairs.csv"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "no aligned twin was given" in done.output
    page = (tmp_path / "out" / "report.html").read_text()
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "Surely <b>yes" not in body
    wrong = CliRunner().invoke(main, ["study", "latents", "--twin", "x"])
    assert wrong.exit_code == 1
    assert "--model" in wrong.output
    missing = CliRunner().invoke(main, ["study", "latents", "--model", str(tiny_llama_dir)])
    assert "--prompts and --neutral and --bad" in missing.output


def test_bad_input(cases, tiny_llama):
    with pytest.raises(InputError, match="no case"):
        latents(["organism/none"])
    with pytest.raises(InputError, match="at least one"):
        latents(cases, k=0)
    with pytest.raises(MismatchError, match="later layer"):
        latents(cases, "organism/sae-topk-4", later_sae="organism/sae-topk-2", **OPTIONS)
    texts = PromptSet.from_texts([f"q {i}" for i in range(6)])
    pairs = CompletionPairs(((5, 6),), ((7,),), ((8,),))
    case = own_case(tiny_llama, texts, PromptSet.from_texts(["n 1", "n 2"]), lambda p, r: "bad", pairs=pairs)
    with pytest.raises(MismatchError, match="trained on this model"):
        latents([case], "organism/sae-topk-2", **OPTIONS)
    own = load_sae("organism/sae-topk-2")
    with pytest.raises(InputError, match="lower k"):
        steering.random_latents(own, 3, active=torch.zeros(own.n_latents, dtype=torch.bool), not_in=[], seed=0)
