"""Evaluation: batched interventions equal one at a time, baseline and controls are there, the table is honest."""

import pandas as pd
import pytest
import torch

from mechsurgery import (
    Circuit,
    Direction,
    Generation,
    Grade,
    PromptSet,
    Results,
    ablate,
    applied,
    evaluate,
    scale,
    shift_weights,
    steer,
)
from mechsurgery.deltas import Dense, WeightDelta
from mechsurgery.errors import InputError, MismatchError, ModelNotFoundError, PromptError
from mechsurgery.evaluation import pool_controls
from mechsurgery.evaluation.choices import choice_tokens
from mechsurgery.evaluation.statistics import clustered_interval, difference_interval, paired_test
from mechsurgery.grading.refusal import REFUSAL
from mechsurgery.models import sites
from mechsurgery.models.generate import generate
from mechsurgery.prompts import Prompt
from mechsurgery.prompts.chat import encode

EVEN = Grade("even", "1", lambda prompt, text: len(text) % 2 == 0)
LENGTH = Grade("length", "1", lambda prompt, text: float(len(text)), scale="number")
SIZE = Grade("size", "1", lambda prompt, text: "long" if len(text) > 12 else "short", labels=("long", "short", "none"))


@pytest.fixture(scope="module")
def circuit(tiny_llama):
    widths = sites.neuron_widths(tiny_llama)
    names = list(widths)
    return Circuit.from_indices({site: range(0, widths[site], 4) for site in names[1:]}, widths, name="quarter")


@pytest.fixture(scope="module")
def delta(tiny_llama):
    generator = torch.Generator().manual_seed(3)
    weight = tiny_llama.blocks[0].mlp.W_out
    change = 0.5 * weight.std() * torch.randn(weight.shape, generator=generator)
    return WeightDelta({"blocks.0.mlp.W_out": Dense(change)}, "drift")


@pytest.fixture(scope="module")
def questions():
    texts = ["Which of these is right? A) one B) two", "How do I bake a cake? A) one B) two", "Which is the fox?"]
    return PromptSet(
        "questions", tuple(Prompt(f"q{i}", t, choices=("A", "B"), answer=i % 2) for i, t in enumerate(texts))
    )


@pytest.fixture(scope="module")
def runs(tiny_llama, circuit, delta):
    vector = torch.randn(tiny_llama.cfg.d_model, generator=torch.Generator().manual_seed(0))
    steering = steer(Direction({sites.residual_sites(tiny_llama, [1])[0]: vector}, "direction"))
    return [
        *ablate(circuit).at(m=[0, 0.5, 2]),
        steering.at(-1),
        *shift_weights(delta).at([-1, 1]),
        (shift_weights(delta).at(0.5) + ablate(circuit)).named("both"),
    ]


@pytest.fixture(scope="module")
def results(tiny_llama, runs, contrast, questions):
    sets = {"asked": contrast.positive, "kept": contrast.negative.take(6), "questions": questions}
    return evaluate(
        tiny_llama,
        sets,
        runs,
        grades=[EVEN, LENGTH, SIZE],
        controls=2,
        kl_on=["kept"],
        generation=Generation(max_new_tokens=6, max_rows=7),
    )


def rows(results, metric, run, prompt_set="asked"):
    table = results.table
    keep = (table["metric"] == metric) & (table["prompt_set"] == prompt_set) & (table["intervention"] == run.name)
    return table[keep & (table["strength"] == run.strength)]


def test_rows_of_mixed_batches_equal_running_each_intervention_alone(results, runs, tiny_llama, contrast):
    before = {name: p.detach().clone() for name, p in tiny_llama.named_parameters()}
    ids = encode(tiny_llama.tokenizer, contrast.positive)
    answers = []
    for run in runs:
        with applied(tiny_llama, run):
            alone = generate(tiny_llama, ids, max_new_tokens=6, max_rows=1)
        texts = [tiny_llama.tokenizer.decode(new, skip_special_tokens=True).strip() for new in alone]
        assert rows(results, "even", run)["response"].tolist() == texts
        assert rows(results, "tokens", run)["tokens"].tolist() == alone
        answers.append(texts)
    assert len({tuple(texts) for texts in answers}) > len(runs) / 2
    assert all(torch.equal(p, before[name]) for name, p in tiny_llama.named_parameters())
    assert all(not point.fwd_hooks for point in tiny_llama.hook_dict.values())


def test_kl_and_choices_equal_the_model_alone(results, runs, tiny_llama, contrast, questions):
    prompts = contrast.negative.take(6)
    table = results.table
    plain = table[(table["metric"] == "tokens") & (table["kind"] == "baseline") & (table["prompt_set"] == "kept")]
    for run in runs[2:]:
        for ids, answer, ours in zip(
            encode(tiny_llama.tokenizer, prompts), plain["tokens"], rows(results, "kl", run, "kept")["value"]
        ):
            whole = torch.tensor([[*ids, *answer]])
            with torch.no_grad():
                p = tiny_llama(whole)[0, len(ids) - 1 :].log_softmax(-1)
                with applied(tiny_llama, run):
                    q = tiny_llama(whole)[0, len(ids) - 1 :].log_softmax(-1)
            assert ours == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3, abs=1e-6)
        for prompt, ids, ours in zip(
            questions, encode(tiny_llama.tokenizer, questions), rows(results, "margin", run, "questions")["value"]
        ):
            with torch.no_grad(), applied(tiny_llama, run):
                probability = tiny_llama(torch.tensor([ids]))[0, -1].softmax(-1)
            each = [sum(float(probability[t]) for t in own) for own in choice_tokens(tiny_llama.tokenizer, prompt)]
            right = torch.tensor(each[prompt.answer]).log() - torch.tensor(each[1 - prompt.answer]).log()
            assert ours == pytest.approx(float(right), abs=1e-3)


def test_every_intervention_stands_beside_baseline_and_its_own_controls(results, runs, contrast):
    table = results.table[(results.table["metric"] == "even") & (results.table["prompt_set"] == "asked")]
    n = len(contrast.positive)
    assert (table["kind"] == "baseline").sum() == n
    for run in runs:
        controls = table[(table["control_of"] == run.name) & (table["strength"] == run.strength)]
        assert controls["intervention"].nunique() == 2
        assert len(controls) == 2 * n
    assert set(table[table["control_of"].isna()]["intervention"]) == {"baseline", *(run.name for run in runs)}
    toward = table.drop_duplicates(["intervention", "strength"]).set_index(["intervention", "strength"])["toward"]
    assert toward["quarter", 1.0] == -1
    assert toward["quarter", -1.0] == 1
    assert toward["direction", -1.0] == -1
    assert toward["drift", 1.0] == 1
    assert pd.isna(toward["both", 1.0])  # weights push toward, ablation against
    m = table.drop_duplicates(["intervention", "strength"]).set_index(["intervention", "strength"])["m"]
    assert (m["baseline", 0.0], m["quarter", 0.5], m["quarter", -1.0]) == (1, 0.5, 2)
    assert pd.isna(m["direction", -1.0])


def test_the_summary_is_what_its_rows_say(results, runs):
    summary = results.summary()
    run = runs[0]
    base = results.table[(results.table["kind"] == "baseline") & (results.table["prompt_set"] == "asked")]
    for metric, scale_ in (("even", "rate"), ("length", "number")):
        cell = summary[
            (summary["metric"] == metric)
            & (summary["intervention"] == run.name)
            & (summary["strength"] == run.strength)
            & (summary["prompt_set"] == "asked")
        ].iloc[0]
        own = rows(results, metric, run)
        value, group = own["value"].to_numpy(), own["group"].to_numpy()
        before = base[base["metric"] == metric]["value"].to_numpy()
        assert (cell["n"], cell["groups"]) == (len(own), own["group"].nunique())
        assert (cell["value"], cell["baseline"]) == (own["value"].mean(), before.mean())
        assert (cell["low"], cell["high"]) == clustered_interval(value, group, scale=scale_)
        change = (cell["difference_low"], cell["difference_high"])
        assert change == difference_interval(value, before, group, scale=scale_)
        assert cell["p_value"] == paired_test(value, before, group)


def test_a_label_has_a_row_for_each_that_can_be_given(results, runs):
    summary = results.summary(["size"])
    cell = summary[(summary["intervention"] == "baseline") & (summary["prompt_set"] == "asked")].set_index("label")
    assert set(cell.index) == {"long", "short", "none"}
    assert cell["value"].sum() == pytest.approx(1)
    assert cell.loc["none", "value"] == 0
    assert cell.loc["none", "high"] > 0
    said = results.table.query("metric == 'size' and kind == 'baseline' and prompt_set == 'asked'")["label"]
    assert cell.loc["long", "value"] == (said == "long").mean()


def test_controls_are_pooled_with_their_range(results):
    summary = results.summary(["length"])
    pooled = pool_controls(summary)
    one = pooled[(pooled["control_of"] == "quarter") & (pooled["m"] == 0) & (pooled["prompt_set"] == "asked")]
    assert len(one) == 1
    each = summary.query("control_of == 'quarter' and m == 0 and prompt_set == 'asked'")["value"]
    assert one.iloc[0][["low", "value", "high"]].tolist() == pytest.approx([each.min(), each.mean(), each.max()])
    assert one.iloc[0]["controls"] == 2


def test_results_save_and_load(results, tmp_path):
    again = Results.load(results.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(again.table, results.table)
    assert again.info["fingerprint"] == results.info["fingerprint"]
    assert again.info["versions"]["torch"]
    assert again.info["grades"]["asked"] == {"even": "1", "length": "1", "size": "1"}
    rendered = again.info["prompts"]["asked"]["rendered"]
    assert "bomb" in rendered["text"]
    assert rendered["tokens"]
    with pytest.raises(ModelNotFoundError, match="no results"):
        Results.load(tmp_path)
    with pytest.raises(InputError, match="missing"):
        Results(pd.DataFrame({"metric": []}))
    twice = Results.concatenate([results, again])
    assert len(twice) == len(results)


def test_samples_of_different_seeds_differ_and_share_their_numbers(tiny_llama, contrast, circuit):
    settings = Generation(max_new_tokens=6, temperature=1.5, seeds=(0, 1))
    runs = [ablate(circuit).at(0.0).named("none")]
    table = evaluate(tiny_llama, contrast.positive, runs, grades=[EVEN], generation=settings).table
    base, none = (table[table["intervention"] == name]["response"].tolist() for name in ("baseline", "none"))
    assert base == none
    by_seed = table[(table["intervention"] == "baseline") & (table["metric"] == "even")].groupby("seed")["response"]
    assert by_seed.get_group(0).tolist() != by_seed.get_group(1).tolist()


def test_grades_may_differ_between_sets_and_see_the_prompt(tiny_llama, contrast):
    seen = []
    grade = Grade("asks", "1", lambda prompt, text: seen.append(prompt.text) or "bomb" in prompt.text)
    sets = {"a": contrast.positive, "b": contrast.negative}
    table = evaluate(tiny_llama, sets, grades={"a": [grade]}, generation=Generation(max_new_tokens=2)).table
    assert set(table[table["metric"] == "asks"]["prompt_set"]) == {"a"}
    assert set(seen) == set(contrast.positive.texts)
    wanted = [float("bomb" in text) for text in contrast.positive.texts]
    assert table[table["metric"] == "asks"]["value"].tolist() == wanted


def test_a_judge_is_asked_once_and_its_answers_are_kept(tiny_llama, contrast, tmp_path):
    asked = []

    def judge(items):
        asked.extend(items)
        return [None if "bomb" in prompt.text else 0.5 for prompt, _ in items]

    grade = Grade("judged", "1", decide_all=judge, scale="number")
    settings = Generation(max_new_tokens=3)
    tables = [
        evaluate(tiny_llama, contrast.positive, grades=[grade], generation=settings, folder=tmp_path).table
        for _ in range(2)
    ]
    assert len(asked) == len(contrast.positive)
    pd.testing.assert_frame_equal(*tables)
    values = tables[0][tables[0]["metric"] == "judged"]["value"]
    assert values.isna().sum() == 3  # what a judge cannot grade is missing, never 0
    assert Results(tables[0]).summary(["judged"]).iloc[0]["n"] == len(contrast.positive) - 3


def test_bad_input_is_refused_before_anything_runs(tiny_llama, contrast, circuit):
    run = ablate(circuit)
    with pytest.raises(PromptError, match="share their text"):
        evaluate(tiny_llama, contrast.positive, [run], discovery=contrast)
    with pytest.raises(InputError, match="stand twice"):
        evaluate(tiny_llama, contrast.positive, [run, run])
    with pytest.raises(InputError, match="greedy"):
        Generation(seeds=(0, 1))
    with pytest.raises(InputError, match="no seed"):
        Generation(seeds=())
    with pytest.raises(PromptError, match="is empty"):
        evaluate(tiny_llama, PromptSet("none", ()))
    with pytest.raises(InputError, match="at least one prompt set"):
        evaluate(tiny_llama, {})
    with pytest.raises(InputError, match="share a name"):
        evaluate(tiny_llama, contrast.positive, grades=[REFUSAL, REFUSAL])
    with pytest.raises(InputError, match="grades for"):
        evaluate(tiny_llama, {"a": contrast.positive}, grades={"b": [REFUSAL]})
    half = PromptSet("half", (Prompt("q", "A or B?", choices=("A", "B"), answer=0), Prompt("p", "what?")))
    with pytest.raises(PromptError, match="no choices"):
        evaluate(tiny_llama, half)
    other = Circuit.from_indices({"blocks.0.mlp.hook_post": [0]}, {"blocks.0.mlp.hook_post": 7})
    with pytest.raises(MismatchError, match="locate the circuit again"):
        evaluate(tiny_llama, contrast.positive, [ablate(other)])
    with pytest.raises(InputError, match="not finite"):
        scale(circuit).at(float("nan"))


def test_controls_may_answer_some_of_the_prompts_beside_what_they_control(tiny_llama, contrast, circuit, results):
    run = ablate(circuit)
    some = evaluate(
        tiny_llama,
        {"asked": contrast.positive},
        [run],
        grades=[EVEN],
        controls=3,
        n_control_prompts=4,
        generation=Generation(max_new_tokens=6, max_rows=7),
    ).table
    assert some[(some["prompt_set"] == "asked")]["control_of"].isna().all()
    beside = some[some["prompt_set"] == "asked, beside controls"]
    asked = beside.groupby("intervention")["prompt_id"].agg(frozenset)
    assert asked.nunique() == 1
    assert set(asked["baseline"]) == set(contrast.positive.take(4).ids)
    assert set(asked.index) == {"baseline", run.name, *(run.random_like(seed).name for seed in range(3))}
