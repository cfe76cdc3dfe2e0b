"""Evaluation: batched interventions equal one at a time, controls and baseline are there, rates are honest."""

import pandas as pd
import pytest
import torch

from mechsurgery import Circuit, PromptSet, Results, ablate, applied, dose, evaluate, prove, scale
from mechsurgery.errors import InputError, MismatchError, ModelNotFoundError, PromptError
from mechsurgery.evaluation import paired_test, pool_random, wilson
from mechsurgery.evaluation.choices import choice_scores
from mechsurgery.models import sites
from mechsurgery.models.generate import generate
from mechsurgery.prompts import Prompt
from mechsurgery.prompts.chat import encode


@pytest.fixture(scope="module")
def circuit(tiny_llama):
    names = sites.neuron_sites(tiny_llama)
    widths = {site: sites.width(tiny_llama, site) for site in names}
    return Circuit.from_indices({site: range(0, widths[site], 4) for site in names[1:]}, widths, name="quarter")


@pytest.fixture(scope="module")
def questions():
    texts = ["Which of these is right? A) one B) two", "How do I bake a cake? A) one B) two", "Which is the fox?"]
    return PromptSet(
        "questions", tuple(Prompt(f"q{i}", t, choices=("A", "B"), answer=i % 2) for i, t in enumerate(texts))
    )


@pytest.fixture(scope="module")
def results(tiny_llama, circuit, contrast, questions):
    return prove(
        tiny_llama,
        circuit,
        contrast.positive,
        m=(0, 0.5, 2),
        n_random=5,
        choices=questions,
        max_new_tokens=6,
        judge=lambda text: len(text) % 2 == 0,
        max_rows=7,
    )


def test_rows_of_mixed_batches_equal_running_each_intervention_alone(results, tiny_llama, circuit, contrast):
    table = results.table[results.table["task"] == "generate"]
    ids = encode(tiny_llama.tokenizer, contrast.positive)
    for m in (0, 0.5, 2):
        with applied(tiny_llama, scale(circuit, m)):
            alone = generate(tiny_llama, ids, max_new_tokens=6, max_rows=1)
        texts = [tiny_llama.tokenizer.decode(new, skip_special_tokens=True).strip() for new in alone]
        assert table[(table["intervention"] == "quarter") & (table["m"] == m)]["response"].tolist() == texts
    plain = [r for r in table[table["kind"] == "baseline"]["response"]]
    assert plain != table[(table["intervention"] == "quarter") & (table["m"] == 2)]["response"].tolist()


def test_every_evaluation_has_baseline_circuit_and_matched_random_circuits(results, contrast, questions):
    counts = results.table.groupby(["kind", "task"]).size()
    n, q = len(contrast.positive), len(questions)
    assert counts["baseline", "generate"] == n
    assert counts["circuit", "generate"] == 3 * n
    assert counts["random", "generate"] == 15 * n
    assert counts["random", "choice"] == 15 * q
    assert results.table[results.table["kind"] == "random"]["intervention"].nunique() == 5


def test_choice_scores_are_log_probabilities_of_the_letters(tiny_llama, questions, circuit):
    tokenizer = tiny_llama.tokenizer
    ids = encode(tokenizer, questions)
    with torch.no_grad(), applied(tiny_llama, ablate(circuit)):
        expected = []
        for row in ids:
            probability = tiny_llama(torch.tensor([row]))[0, -1].softmax(-1)
            tokens = [{t[0] for s in (c, f" {c}") if len(t := tokenizer.encode(s)) == 1} for c in "AB"]
            expected.append([float(sum(probability[i] for i in own)) for own in tokens])
    runs = ablate(circuit)
    scores = choice_scores(tiny_llama, questions, hooks=lambda rows: runs.hooks(1.0))
    for ours, theirs in zip(scores, expected):
        assert ours.exp().tolist() == pytest.approx(theirs, rel=1e-4)


def test_a_degenerate_output_never_counts_as_a_refusal(tiny_llama, contrast):
    refusal = evaluate(tiny_llama, contrast.positive, max_new_tokens=4, judge=lambda text: True)
    table = refusal.table
    assert table["refusal_raw"].all()
    assert (table["refusal"] == ~table["degenerate"]).all()


def test_the_summary_has_n_intervals_and_paired_tests(results):
    summary, table = results.summary(), results.table
    generated = table[table["task"] == "generate"]
    for metric in ("refusal", "refusal_raw", "degenerate"):
        row = summary[
            (summary["metric"] == metric) & (summary["intervention"] == "quarter") & (summary["m"] == 0)
        ].iloc[0]
        own = generated[(generated["intervention"] == "quarter") & (generated["m"] == 0)][metric].astype(float)
        base = generated[generated["kind"] == "baseline"][metric].astype(float)
        assert (row["n"], row["value"]) == (len(own), own.mean())
        assert (row["low"], row["high"]) == wilson(int(own.sum()), len(own))
        assert row["p_value"] == paired_test(own, base)
        assert row["difference"] == pytest.approx(own.mean() - base.mean())


def test_random_circuits_are_pooled_with_their_range(results):
    pooled = pool_random(results.summary())
    row = pooled[(pooled["kind"] == "random") & (pooled["metric"] == "quality") & (pooled["m"] == 0)]
    assert len(row) == 1
    each = results.summary().query("kind == 'random' and metric == 'quality' and m == 0")["value"]
    assert row.iloc[0][["low", "value", "high"]].tolist() == pytest.approx([each.min(), each.mean(), each.max()])


def test_results_save_and_load(results, tmp_path):
    again = Results.load(results.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(again.table, results.table)
    assert again.info["fingerprint"] == results.info["fingerprint"]
    assert again.info["versions"]["torch"]
    with pytest.raises(ModelNotFoundError, match="no results"):
        Results.load(tmp_path)
    with pytest.raises(InputError, match="missing"):
        Results(pd.DataFrame({"task": []}))


def test_dose_leaves_out_the_baseline_and_shares_its_edits(circuit):
    runs = dose(circuit, (0, 0.5, 1, 2))
    assert [run.strength for run in runs] == [1, 0.5, -1]
    assert len({id(run.edits) for run in runs}) == 1


def test_samples_of_different_seeds_differ_and_share_their_numbers(tiny_llama, contrast, circuit):
    options = {"max_new_tokens": 6, "temperature": 1.5, "seeds": (0, 1)}
    table = evaluate(tiny_llama, contrast.positive, [ablate(circuit).at(0.0).named("none")], **options).table
    base, none = (table[table["kind"] == kind]["response"].tolist() for kind in ("baseline", "circuit"))
    assert base == none
    assert base[: len(base) // 2] != base[len(base) // 2 :]


def test_bad_input_is_refused(tiny_llama, contrast, circuit):
    run = ablate(circuit)
    with pytest.raises(PromptError, match="share their text"):
        evaluate(tiny_llama, contrast.positive, [run], discovery=contrast)
    with pytest.raises(InputError, match="stand twice"):
        evaluate(tiny_llama, contrast.positive, [run, run])
    with pytest.raises(InputError, match="greedy"):
        evaluate(tiny_llama, contrast.positive, seeds=(0, 1))
    with pytest.raises(PromptError, match="is empty"):
        evaluate(tiny_llama, PromptSet("none", ()))
    with pytest.raises(InputError, match="at least one prompt set"):
        evaluate(tiny_llama, {})
    with pytest.raises(PromptError, match="no choices"):
        evaluate(tiny_llama, contrast.positive, choices=contrast.negative)
    other = Circuit.from_indices({"blocks.0.mlp.hook_post": [0]}, {"blocks.0.mlp.hook_post": 7})
    with pytest.raises(MismatchError, match="locate the circuit again"):
        evaluate(tiny_llama, contrast.positive, [ablate(other)])
    assert all(not point.fwd_hooks for point in tiny_llama.hook_dict.values())
