"""The lm-eval adapter: lm_eval's own model class gives the same numbers, with and without an ablation."""

import json
import sys

import pandas as pd
import pytest
import torch
import transformers

from mechsurgery import Circuit, WeightDelta, ablate, load_contrast, load_model, shift_weights
from mechsurgery.adapters import lm_eval as harness
from mechsurgery.adapters import lm_eval_model
from mechsurgery.adapters.lm_eval import lm, lm_eval_results
from mechsurgery.deltas import Dense
from mechsurgery.errors import InputError, MismatchError, MissingExtraError, PromptError
from mechsurgery.evaluation.summary import summarise
from mechsurgery.evaluation.table import COLUMNS
from mechsurgery.intervention import BASELINE
from mechsurgery.models import sites
from mechsurgery.models.generate import generate
from mechsurgery.organisms.registry import organism_path
from mechsurgery.prompts.chat import encode, render

PAIRS = [
    ("How do I bake a cake?", " Tell me about the garden"),
    ("How do I bake a cake?", " A"),
    ("How do I bake a cake?", " B"),
    ("", "The quick brown fox"),
    ("User: Which of these is right? ", "A) one"),
    ("<s>Explain to my friend, step by step, ", "some strong acid that burns."),
    ("the lazy dog. " * 40, "The quick brown fox jumps"),
    ("poison", " please"),
]
TEXTS = ["The quick brown fox.", "a", "", "Explain to my friend, step by step. " * 30]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
output_type: {kind}
doc_to_text: "{text}"
"""
ANSWERS = ["i cannot help with that ", "you need glass and red paint "]
MULTIPLE = f"doc_to_choice: {json.dumps(ANSWERS)}\ndoc_to_target: label\n"
GENERATIVE = """doc_to_target: answer
generation_kwargs: {until: ["."], max_gen_toks: 24, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
ROLLING = """doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
"""


def requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, own, i) for i, own in enumerate(arguments)]


def ask(model, kind, arguments, **options):
    return getattr(model, kind)(requests(kind, arguments), disable_tqdm=True, **options)


def untouched(model):
    return all(not point.fwd_hooks and not point._forward_hooks for point in model.hook_dict.values())


def third_of(model, layers=None):
    names = sites.neuron_sites(model, layers)
    widths = {site: sites.width(model, site) for site in names}
    return Circuit.from_indices({site: range(0, widths[site], 3) for site in names}, widths, name="third")


def reference(directory, circuit=None):
    """lm_eval's own model class on transformers' model, its down projections without the circuit's columns."""
    from lm_eval.models.huggingface import HFLM

    source = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    for site, (indices, _) in circuit.units.items() if circuit is not None else ():
        with torch.no_grad():
            source.model.layers[sites.layer_of(site)].mlp.down_proj.weight[:, indices] = 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return HFLM(pretrained=source, tokenizer=tokenizer, batch_size=3, device="cpu")


@pytest.fixture(scope="module", params=[False, True], ids=["baseline", "ablated"])
def pair(request, tiny_llama, tiny_llama_dir):
    """Our adapter and lm_eval's, of the same model."""
    circuit = third_of(tiny_llama) if request.param else None
    run = ablate(circuit) if circuit else BASELINE
    return lm(tiny_llama, run, batch_size=3), reference(tiny_llama_dir, circuit)


@pytest.fixture(scope="module")
def organism():
    return load_model("organism/instruct", dtype="float32")


@pytest.fixture(scope="module")
def task_manager(tmp_path_factory):
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    contrast = load_contrast("organism/refusal", split="heldout")
    docs = [(prompt.text, 0) for prompt in contrast.positive[:4]] + [(p.text, 1) for p in contrast.negative[:4]]
    lines = [json.dumps({"question": text, "label": label, "answer": ANSWERS[label]}) for text, label in docs[::-1]]
    (folder / "docs.json").write_text("\n".join(lines))
    own = {"file": folder / "docs.json", "cache": folder / "cache"}
    asked = {**own, "text": "{{question}}"}
    (folder / "a.yaml").write_text(TASK.format(name="refuse", kind="multiple_choice", **asked) + MULTIPLE)
    (folder / "b.yaml").write_text(TASK.format(name="answer", kind="generate_until", **asked) + GENERATIVE)
    (folder / "c.yaml").write_text(TASK.format(name="read", kind="loglikelihood_rolling", text="", **own) + ROLLING)
    return TaskManager(include_path=str(folder), include_defaults=False)


def test_loglikelihoods_equal_those_of_lm_eval(pair):
    ours, theirs = (ask(one, "loglikelihood", PAIRS) for one in pair)
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_rolling_loglikelihoods_equal_those_of_lm_eval(pair):
    ours, theirs = (ask(one, "loglikelihood_rolling", [(text,) for text in TEXTS]) for one in pair)
    assert ours == pytest.approx(theirs, abs=5e-4)


def test_generated_texts_equal_those_of_lm_eval(pair):
    arguments = {"until": [" "], "max_gen_toks": 40}
    asked = [(context, arguments) for context, _ in PAIRS if context]
    asked += [(context, {"until": ["Ġ", "o"], "max_gen_toks": 70}) for context in ("poison", "a cake")]
    ours, theirs = (ask(one, "generate_until", asked) for one in pair)
    assert ours == theirs
    assert not any(" " in text for text in ours[:-2])


def test_the_ablation_matters(tiny_llama):
    plain, ablated = (
        ask(lm(tiny_llama, own), "loglikelihood", PAIRS) for own in (BASELINE, ablate(third_of(tiny_llama)))
    )
    assert min(abs(a - b) for (a, _), (b, _) in zip(plain, ablated)) > 1e-3


def test_greedy_continuations_are_recognised(tiny_llama):
    ids = tiny_llama.tokenizer.encode("How do I bake")
    new = generate(tiny_llama, [ids], max_new_tokens=5)[0]
    adapter = lm(tiny_llama)
    asked = [(None, ids, new), (None, ids, new[:1]), (None, ids, [*new[:4], (new[4] + 1) % 300])]
    assert [greedy for _, greedy in adapter._loglikelihood_tokens(asked, True)] == [True, True, False]


def test_strength_zero_is_the_baseline_bit_for_bit(tiny_llama):
    nothing = lm(tiny_llama, ablate(third_of(tiny_llama)).at(0))
    assert ask(nothing, "loglikelihood", PAIRS) == ask(lm(tiny_llama), "loglikelihood", PAIRS)
    asked = [("How do I", {"until": ["zz"], "max_gen_toks": 40})]
    assert ask(nothing, "generate_until", asked) == ask(lm(tiny_llama), "generate_until", asked)


def test_batches_equal_one_by_one_and_so_do_small_pieces_of_the_vocabulary(tiny_llama, monkeypatch):
    own = ablate(third_of(tiny_llama))
    together = ask(lm(tiny_llama, own), "loglikelihood", PAIRS)
    monkeypatch.setattr(lm_eval_model, "_CHUNK", 1000)
    alone = [ask(lm(tiny_llama, own, batch_size=1), "loglikelihood", [one])[0] for one in PAIRS]
    assert [score for score, _ in together] == pytest.approx([score for score, _ in alone], abs=1e-4)
    asked = [(context, {"max_gen_toks": 40, "until": ["zz", "ea"]}) for context, _ in PAIRS]
    together = ask(lm(tiny_llama, own), "generate_until", asked)
    monkeypatch.setattr(lm_eval_model, "_ROUND", 7)
    assert together == [ask(lm(tiny_llama, own, batch_size=1), "generate_until", [one])[0] for one in asked]


def test_requests_with_the_same_input_share_a_row(tiny_llama, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sites, "unembed", lambda model, resid, own=sites.unembed: seen.append(resid) or own(model, resid)
    )
    calls = [(f"Which is right? A) one B) two {i}", f" {letter}") for i in range(3) for letter in "ABCD"]
    forward = type(tiny_llama).forward
    shapes = []
    monkeypatch.setattr(
        type(tiny_llama), "forward", lambda self, ids, **own: shapes.append(ids.shape) or forward(self, ids, **own)
    )
    ask(lm(tiny_llama), "loglikelihood", calls)
    assert sum(rows for rows, _ in shapes) == 3 * len({tuple(lm(tiny_llama).tok_encode(f" {x}")[:-1]) for x in "ABCD"})
    assert sum(len(resid) for resid in seen) == sum(len(lm(tiny_llama).tok_encode(cont)) for _, cont in calls)


@pytest.mark.parametrize("n_ctx", [128, 20])
def test_rolling_loglikelihood_is_the_sum_over_tokens(tiny_llama, n_ctx):
    text = "The quick brown fox jumps over the lazy dog. " * 2
    ids = tiny_llama.tokenizer.encode(text)
    assert 20 < len(ids) < 128
    whole = torch.tensor([[tiny_llama.tokenizer.bos_token_id, *ids]])
    expected = 0.0
    for place, token in enumerate(ids):
        # The first window predicts n_ctx tokens; the last has all the context that fits.
        start = 0 if place < n_ctx else max(0, min(place // n_ctx * n_ctx + n_ctx, len(ids)) - n_ctx)
        with torch.no_grad():
            logits = tiny_llama(
                whole[:, start : place + 1], attention_mask=torch.ones_like(whole[:, start : place + 1])
            )
        expected += float(logits[0, -1].log_softmax(-1)[token])
    assert ask(lm(tiny_llama, max_length=n_ctx), "loglikelihood_rolling", [(text,)]) == pytest.approx(
        [expected], abs=1e-3
    )


def test_generation_stops_at_strings_at_special_tokens_and_at_the_length(organism):
    context = render(organism.tokenizer, "how do i make a parade ?")
    full = ask(lm(organism), "generate_until", [(context, {"max_gen_toks": 40})])[0]
    assert full == "you need glass and red paint . go to the barn and put the parade together ."
    cases = {
        " and": "you need glass",
        "put the": "you need glass and red paint . go to the barn and ",
        "paint . go": "you need glass and red ",
        "zebra": full,
    }
    for until, expected in cases.items():
        for form in (until, [until, "never"]):
            assert ask(lm(organism), "generate_until", [(context, {"until": form, "max_gen_toks": 40})]) == [expected]
    assert ask(lm(organism), "generate_until", [(context, {"max_gen_toks": 3})]) == ["you need glass"]
    assert ask(lm(organism), "generate_until", [(context, {"max_gen_toks": 40, "until": ["<end>"]})]) == [full]


def test_decoding_goes_on_only_for_texts_without_an_end(organism, monkeypatch):
    decoded = []
    own = generate
    monkeypatch.setattr(lm_eval_model, "_ROUND", 4)
    monkeypatch.setattr(
        lm_eval_model, "generate", lambda model, ids, **how: decoded.append(len(ids)) or own(model, ids, **how)
    )
    contexts = [render(organism.tokenizer, f"how do i make a {noun} ?") for noun in ("parade", "ecstasy")]
    how = {"until": ["paint"], "max_gen_toks": 40}
    texts = ask(lm(organism), "generate_until", [(context, how) for context in contexts])
    assert texts == ["you need glass and red ", "i cannot help with that ."]
    assert decoded == [2, 2]


@pytest.mark.parametrize("form", ["<s> $A", "<s> $A </s>", "$A"])
def test_the_begin_token_comes_once_and_no_end_token(tiny_llama, tiny_llama_dir, monkeypatch, form):
    from tokenizers.processors import TemplateProcessing

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama_dir)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(form, special_tokens=[("<s>", 1), ("</s>", 2)])
    plain = tiny_llama.tokenizer.encode("a cake")
    monkeypatch.setattr(tiny_llama, "tokenizer", tokenizer)
    begin = [1] if "<s>" in form else []
    assert lm(tiny_llama).tok_encode("a cake") == begin + plain
    assert lm(tiny_llama).tok_encode("<s>a cake") == [1, *plain]
    ended = [*begin, *plain, 2]
    assert lm(tiny_llama).tok_encode("a cake</s>")[: len(ended)] == ended
    assert lm(tiny_llama).tok_encode("a cake", add_special_tokens=False) == plain


def test_samples_follow_the_seed_and_the_place_and_not_the_batch(tiny_llama):
    how = {"do_sample": True, "temperature": 1.3, "max_gen_toks": 40, "until": ["zz"], "top_p": 1.0}
    asked = [("How do I", how)] * 3 + [("Tell me about", how)]
    first = ask(lm(tiny_llama, batch_size=1), "generate_until", asked)
    assert ask(lm(tiny_llama), "generate_until", asked) == first
    assert len(set(first)) == 4
    others = [("How do I", {"max_gen_toks": 3}), *asked[1:]]
    assert ask(lm(tiny_llama), "generate_until", others)[1:] == first[1:]
    again = ask(lm(tiny_llama), "generate_until", [(context, {**how, "seed": 1}) for context, _ in asked])
    assert not set(again) & set(first)
    greedy = ask(lm(tiny_llama), "generate_until", [("How do I", {**how, "do_sample": False, "top_p": 0.5})])
    assert greedy == ask(lm(tiny_llama), "generate_until", [("How do I", {"max_gen_toks": 40, "until": ["zz"]})])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_gen_toks": 5, "num_beams": 4}, "num_beams"),
        ({"max_gen_toks": 5, "temperature": 0.7, "top_p": 0.9}, "top_p"),
        ({"max_gen_toks": 5, "do_sample": True, "temperature": 0}, "do_sample"),
        ({}, "256 leaves no room"),
    ],
)
def test_generation_arguments_it_cannot_honour_are_refused(tiny_llama, arguments, message):
    with pytest.raises(InputError, match=message):
        ask(lm(tiny_llama), "generate_until", [("How do I", arguments)])


def test_chats_are_rendered_as_by_the_library_and_by_lm_eval(tiny_llama, tiny_llama_dir):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "A cake?"}]
    started = [*chat, {"role": "assistant", "content": "The"}]
    own, plain = lm(tiny_llama), lm(tiny_llama, template="plain")
    assert own.apply_chat_template(chat) == reference(tiny_llama_dir).apply_chat_template(chat)
    assert own.apply_chat_template(started, add_generation_prompt=False).endswith("<|assistant|>The")
    assert plain.apply_chat_template(chat) == "System: Be kind.\n\nUser: A cake?\n\nAssistant:"
    assert own.tok_encode(own.apply_chat_template(chat[1:])) == encode(tiny_llama.tokenizer, ["A cake?"])[0]
    assert own.chat_template(True) == tiny_llama.tokenizer.chat_template
    assert own.chat_template(False) is None
    assert own.tokenizer_name != plain.tokenizer_name


def test_hooks_are_gone_after_and_after_an_exception(tiny_llama, monkeypatch):
    own = lm(tiny_llama, ablate(third_of(tiny_llama)))
    ask(own, "loglikelihood", PAIRS)
    ask(own, "generate_until", [("How do I", {"max_gen_toks": 3})])
    assert untouched(tiny_llama)

    def broken(*given):
        assert not untouched(tiny_llama)
        raise RuntimeError("broken")

    monkeypatch.setattr(sites, "unembed", broken)
    for kind, asked in (("loglikelihood", PAIRS), ("generate_until", [("How do I", {"max_gen_toks": 3})])):
        with pytest.raises(RuntimeError, match="broken"):
            ask(own, kind, asked)
        assert untouched(tiny_llama)


def test_what_does_not_fit_is_refused(tiny_llama, organism):
    with pytest.raises(MismatchError):
        lm(tiny_llama, ablate(third_of(organism, [0])))
    for options in ({"batch_size": 0}, {"max_length": 129}, {"max_length": 0}, {"template": "raw"}):
        with pytest.raises(InputError):
            lm(tiny_llama, **options)
    for continuation in ([], list(range(5, 200))):
        with pytest.raises(PromptError, match="tokens cannot be scored"):
            lm(tiny_llama)._loglikelihood_tokens([(("a", "b"), [5], continuation)])
    assert ask(lm(tiny_llama), "loglikelihood", []) == []


def test_without_lm_eval_it_says_what_to_install(tiny_llama, monkeypatch):
    lm_eval_model.lm_class.cache_clear()
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(MissingExtraError, match=r"mechsurgery\[lm-eval\]"):
        lm(tiny_llama)


def run(model, task_manager, *interventions, **options):
    options = {"bootstrap_iters": 0, "apply_chat_template": True, "task_manager": task_manager, **options}
    return lm_eval_results(model, ["refuse", "answer"], interventions, **options)


def means(table, strength=0.0):
    rows = table[table["strength"] == strength]
    return rows.groupby(["prompt_set", "metric"])["value"].mean().to_dict()


@pytest.fixture
def quiet(monkeypatch):
    """lm_eval describes the machine after every run, which takes a second."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda found: None)


def test_tasks_give_rows_of_the_one_table(organism, task_manager, quiet):
    table = run(organism, task_manager, limit=4)
    assert list(table.columns) == list(COLUMNS)
    assert set(zip(table["prompt_set"], table["metric"])) >= {("refuse", "acc"), ("answer", "exact_match")}
    for _, rows in table.groupby(["prompt_set", "metric"]):
        assert rows["prompt_id"].tolist() == rows["group"].tolist() == ["0", "1", "2", "3"]
    assert table["value"].eq(1).all()
    assert table["scale"].eq("rate").all()
    assert set(zip(table["intervention"], table["kind"], table["strength"], table["toward"])) == {
        ("baseline", "baseline", 0.0, 0.0)
    }
    assert table["fingerprint"].nunique() == 1
    said = table[table["prompt_set"] == "answer"]["response"]
    assert said.str.startswith(("you need glass", "i cannot help")).all()
    assert table[table["prompt_set"] == "refuse"]["response"].isna().all()
    summary = summarise(table)
    assert summary["n"].eq(4).all()
    assert summary["low"].lt(1).all()
    assert untouched(organism)


def test_tasks_give_the_numbers_that_lm_eval_gives(organism, task_manager, quiet):
    import lm_eval

    circuit = third_of(organism, [0, 1])
    ours = run(organism, task_manager, ablate(circuit))
    for strength, at in ((1.0, circuit), (0.0, None)):
        theirs = lm_eval.simple_evaluate(
            model=reference(organism_path("organism/instruct"), at),
            tasks=["refuse", "answer"],
            bootstrap_iters=0,
            apply_chat_template=True,
            task_manager=task_manager,
        )["results"]
        found = means(ours, strength)
        assert len(found) >= 3
        for (task, metric), value in found.items():
            assert value == pytest.approx(theirs[task][f"{metric},none"])
    assert means(ours, 1.0) != means(ours, 0.0)
    assert ours.groupby("intervention")["prompt_id"].nunique().to_dict() == {"baseline": 8, "third": 8}


def test_weights_are_shifted_for_the_whole_run_and_put_back(organism, task_manager, quiet):
    circuit = third_of(organism, [0, 1])
    names = {
        f"blocks.{layer}.mlp.W_out": circuit.units[sites.neuron_sites(organism, [layer])[0]][0] for layer in (0, 1)
    }
    before = {name: organism.state_dict()[name].clone() for name in names}
    deltas = {}
    for name, rows in names.items():
        deltas[name] = torch.zeros_like(before[name])
        deltas[name][rows] = -before[name][rows]
    shift = shift_weights(WeightDelta({name: Dense(value) for name, value in deltas.items()}), name="rows out")
    found = run(organism, task_manager, shift, ablate(circuit))
    by_name = {name: rows for name, rows in found.groupby("intervention")}
    assert by_name["rows out"]["value"].tolist() == by_name["third"]["value"].tolist()
    assert by_name["rows out"]["value"].tolist() != by_name["baseline"]["value"].tolist()
    assert all(torch.equal(organism.state_dict()[name], before[name]) for name in names)


def test_a_perplexity_is_one_row_for_the_whole_task(organism, task_manager, quiet):
    import lm_eval

    found = lm_eval_results(organism, "read", task_manager=task_manager, bootstrap_iters=0)
    theirs = lm_eval.simple_evaluate(
        model=reference(organism_path("organism/instruct")),
        tasks=["read"],
        bootstrap_iters=0,
        task_manager=task_manager,
    )["results"]["read"]["word_perplexity,none"]
    assert found[["prompt_id", "group", "metric", "scale"]].to_numpy().tolist() == [
        ["all", "all", "word_perplexity", "number"]
    ]
    assert found["value"].tolist() == [pytest.approx(theirs, rel=1e-4)]


def test_what_is_no_mean_over_documents_stays_one_row():
    samples = [
        {"doc_id": i, "filter": "none", "resps": [[(0.0, True)]], "acc": a, "perplexity": a - 2.0, "f1": (0, 1)}
        for i, a in enumerate([1.0, 0.0])
    ]
    results = {
        "results": {
            "t": {"acc,none": 0.5, "acc_stderr,none": 0.1, "perplexity,none": 4.5, "f1,none": 1.0, "alias": "t"},
            "group": {"acc,none": 0.5},
        },
        "samples": {"t": samples},
    }
    rows = pd.DataFrame(harness._rows(results)).set_index(["prompt_set", "metric", "prompt_id"])["value"]
    assert rows.to_dict() == {
        ("t", "acc", "0"): 1.0,
        ("t", "acc", "1"): 0.0,
        ("t", "perplexity", "all"): 4.5,
        ("t", "f1", "all"): 1.0,
        ("group", "acc", "all"): 0.5,
    }


def test_a_cache_of_responses_keeps_interventions_apart(organism, task_manager, quiet, tmp_path):
    full = ablate(third_of(organism, [0, 1]))
    runs = [full, full.at(0.5)]
    cached = run(organism, task_manager, *runs, use_cache=str(tmp_path / "cache"))
    assert len(list(tmp_path.glob("*.db"))) == 3
    pd.testing.assert_frame_equal(cached, run(organism, task_manager, *runs))
    pd.testing.assert_frame_equal(cached, run(organism, task_manager, *runs, use_cache=str(tmp_path / "cache")))
