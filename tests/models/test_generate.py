"""Batches, captured activations and generation, against transformers and against one row at a time."""

from functools import partial
from itertools import accumulate, combinations

import pytest
import torch
from transformers import AutoModelForCausalLM

from mechsurgery.errors import ActivationError, InputError, PromptError, SiteError
from mechsurgery.models import capture, load_model, sites, tokens
from mechsurgery.models.divergence import divergence
from mechsurgery.models.generate import generate

LENGTHS = (4, 9, 17, 6, 4, 30)


def ragged(seed=1, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(7, 360, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "qwen3", "neox"])
@torch.no_grad()
def test_greedy_generation_equals_transformers(family, tiny_checkpoint):
    directory = tiny_checkpoint(family)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    model = load_model(directory)
    ids = ragged()
    ours = generate(model, ids, max_new_tokens=8, stop=(), max_rows=4)
    for prompt, new in zip(ids, ours):
        current = torch.tensor([prompt])
        for _ in range(8):
            current = torch.cat([current, plain(current).logits[:, -1:].argmax(-1)], dim=1)
        assert new == current[0, len(prompt) :].tolist()


def test_rows_stop_at_their_own_end_token(tiny_llama):
    ids = ragged()
    free = generate(tiny_llama, ids, max_new_tokens=8, stop=())
    stop = free[0][3]
    stopped = generate(tiny_llama, ids, max_new_tokens=8, stop=(stop,))
    for whole, cut in zip(free, stopped):
        assert cut == (whole[: whole.index(stop)] if stop in whole else whole)


def test_sampling_depends_on_seed_and_row_and_not_on_the_batch(tiny_llama):
    ids = [[5, 6, 7]] * 6
    together = generate(tiny_llama, ids, max_new_tokens=6, temperature=1.0, seed=3, stop=())
    apart = generate(tiny_llama, ids, max_new_tokens=6, temperature=1.0, seed=3, stop=(), max_rows=1)
    assert together == apart
    assert len({tuple(row) for row in together}) > 1
    assert generate(tiny_llama, ids, max_new_tokens=6, temperature=1.0, seed=4, stop=()) != together
    shared = generate(
        tiny_llama, ids, max_new_tokens=6, temperature=1.0, seed=3, streams=[0, 1, 2] * (len(ids) // 3), stop=()
    )
    assert shared[:3] == shared[3:] == together[:3]


def test_sampled_tokens_follow_the_models_probabilities(tiny_llama):
    ids = [[5, 6, 7]] * 3000
    drawn = [row[0] for row in generate(tiny_llama, ids, max_new_tokens=1, temperature=1.0, stop=(), max_rows=1000)]
    expected = capture.next_token_logits(tiny_llama, ids[:1])[0].softmax(-1)
    counts = torch.bincount(torch.tensor(drawn), minlength=len(expected)) / len(drawn)
    assert (counts - expected).abs().max() < 4 * (0.25 / len(drawn)) ** 0.5


def test_hooks_of_each_batch_know_their_rows(tiny_llama):
    ids = ragged()
    strength = torch.linspace(-1, 2, len(ids))

    def hooks(rows):
        factor = strength[rows][:, None, None]
        return [("blocks.1.mlp.hook_post", lambda x, hook: x * factor)]

    together = generate(tiny_llama, ids, hooks=hooks, max_new_tokens=6, stop=())
    for row, prompt in enumerate(ids):
        alone = generate(
            tiny_llama,
            [prompt],
            max_new_tokens=6,
            stop=(),
            hooks=lambda rows, f=float(strength[row]): [("blocks.1.mlp.hook_post", lambda x, hook: x * f)],
        )
        assert alone[0] == together[row]
    assert together != generate(tiny_llama, ids, max_new_tokens=6, stop=())
    assert all(not point.fwd_hooks for point in tiny_llama.hook_dict.values())


@torch.no_grad()
def test_next_token_logits_equal_the_forward(tiny_llama):
    ids = ragged()
    ours = capture.next_token_logits(tiny_llama, ids, max_rows=3)
    for row, prompt in enumerate(ids):
        torch.testing.assert_close(ours[row], tiny_llama(torch.tensor([prompt]))[0, -1], atol=1e-5, rtol=1e-4)


def test_stream_computes_no_more_layers_than_it_needs(tiny_llama):
    deeper = []
    tiny_llama.hook_dict["blocks.2.hook_resid_pre"].add_hook(lambda x, hook: deeper.append(1))
    try:
        capture.stream(tiny_llama, ragged(), ["blocks.1.mlp.hook_post"], lambda *_: None)
    finally:
        tiny_llama.reset_hooks()
    assert not deeper


def test_collected_activations_keep_the_order_and_the_units(tiny_llama):
    ids = ragged()
    site = "blocks.2.mlp.hook_post"
    chosen = torch.tensor([5, 0, 11])
    some = capture.collect(tiny_llama, ids, [site], units={site: chosen}, max_rows=2)[site]
    for row, prompt in enumerate(ids):
        _, cache = tiny_llama.run_with_cache(torch.tensor([prompt]), names_filter=[site])
        torch.testing.assert_close(some[row], cache[site][0, -1, chosen], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_last_new_token_needs_no_room_in_the_context(family, tiny_checkpoint):
    name = {"gpt2": "n_positions"}.get(family, "max_position_embeddings")
    ids = ragged(lengths=(12, 7, 12))
    if family == "gpt2":
        # Positions are weights here: a longer context is the same model only where those of the short one are kept.
        long = load_model(tiny_checkpoint(family, **{name: 64}))
        short = load_model(tiny_checkpoint(family, **{name: 16}))
        with torch.no_grad():
            for (_, a), (_, b) in zip(short.named_parameters(), long.named_parameters()):
                a.copy_(b[: len(a)])
    else:
        long, short = (load_model(tiny_checkpoint(family, **{name: n})) for n in (64, 16))
    options = {"max_new_tokens": 5, "stop": ()}
    assert generate(short, ids, **options) == generate(long, ids, **options)
    with pytest.raises(PromptError, match="max_new_tokens"):
        generate(short, ids, max_new_tokens=6)
    responses = generate(short, ids, **options)
    assert float(divergence(short, ids, responses, hooks=lambda rows: []).abs().max()) < 1e-5


@pytest.mark.parametrize("positions", ["last", "mean", "completion", "all"])
@torch.no_grad()
def test_stream_hands_over_the_positions_asked_for(positions, tiny_llama):
    ids = ragged()
    counts = [1 + row % 4 for row in range(len(ids))]
    site = "blocks.1.hook_resid_post"
    kept = {row: [] for row in range(len(ids))}

    def update(name, activation, rows):
        assert name == site
        for row, one in zip(rows, activation, strict=True):
            kept[row].append(one)

    n_completion = counts if positions == "completion" else None
    capture.stream(tiny_llama, ids, [site], update, positions=positions, n_completion=n_completion, max_rows=4)
    for row, prompt in enumerate(ids):
        whole = tiny_llama.run_with_cache(torch.tensor([prompt]), names_filter=[site])[1][site][0]
        expected = {
            "last": whole[-1:],
            "mean": whole.mean(0, keepdim=True),
            "completion": whole[-counts[row] :],
            "all": whole,
        }
        torch.testing.assert_close(torch.stack(kept[row]), expected[positions], atol=1e-5, rtol=1e-4)


def test_positions_that_are_none(tiny_llama):
    read = partial(capture.stream, tiny_llama, [[5, 6], [7]], ["blocks.0.hook_resid_post"], lambda *_: None)
    with pytest.raises(InputError, match="n_completion"):
        read(positions="completion")
    with pytest.raises(InputError, match="n_completion"):
        read(positions="all", n_completion=[1, 1])
    with pytest.raises(InputError, match=r"prompts \[1\]"):
        read(positions="completion", n_completion=[1, 2])


def test_prompts_that_are_answered_are_parted_so_that_it_costs_least():
    lengths = [40, 33, 30, 12, 11, 9, 2]

    def cost(parts, new):
        return sum(lengths[start] * (end - start) + tokens.PASS * new for start, end in parts)

    for new in (1, 2, 4, 9):
        ways = [
            list(zip([0, *cuts], [*cuts, len(lengths)]))
            for n in range(len(lengths))
            for cuts in combinations(range(1, len(lengths)), n)
        ]
        allowed = [
            way for way in ways if all(end - start <= 5 and lengths[start] * (end - start) <= 130 for start, end in way)
        ]
        made = tokens.batches([[1] * n for n in lengths], pad_id=0, max_rows=5, max_tokens=130, new_tokens=new)
        ends = list(accumulate(len(batch.rows) for batch in made))
        assert [row for batch in made for row in batch.rows] == list(range(len(lengths)))
        assert cost(list(zip([0, *ends], ends)), new) == min(cost(way, new) for way in allowed)
    prompts = [[1] * n for n in range(12, 41)]
    assert len(tokens.batches(prompts, pad_id=0, new_tokens=48)) == 1 < len(tokens.batches(prompts, pad_id=0))
    (alone,) = tokens.batches([[1] * 9], pad_id=0, max_tokens=4, new_tokens=3)
    assert alone.ids.shape == (1, 9)


def test_batches_hold_every_prompt_once_and_pad_on_the_left():
    ids = ragged(2, tuple(range(1, 40)))
    made = tokens.batches(ids, pad_id=0, max_rows=7, max_tokens=200)
    assert sorted(row for batch in made for row in batch.rows) == list(range(len(ids)))
    for batch in made:
        assert batch.ids.numel() <= 200
        assert len(batch.rows) <= 7
        for place, row in enumerate(batch.rows):
            assert batch.ids[place][batch.mask[place].bool()].tolist() == ids[row]
            assert batch.mask[place, -1] == 1


def test_bad_input_is_one_clear_error(tiny_llama, tiny_llama_dir):
    with pytest.raises(PromptError, match="at least one"):
        generate(tiny_llama, [])
    with pytest.raises(PromptError, match="max_new_tokens"):
        generate(tiny_llama, [[5] * 120], max_new_tokens=20)
    with pytest.raises(PromptError, match="context of 128"):
        capture.collect(tiny_llama, [[5] * 200], ["blocks.0.mlp.hook_post"])
    with pytest.raises(PromptError, match="no tokens"):
        generate(tiny_llama, [[5], []])
    with pytest.raises(SiteError, match="near: 'blocks"):
        capture.collect(tiny_llama, [[5]], ["blocks.0.mlp.hook_pots"])
    with pytest.raises(SiteError, match="layers 0 to 3"):
        sites.neuron_sites(tiny_llama, [4])
    broken = load_model(tiny_llama_dir)
    with torch.no_grad():
        broken.blocks[1].mlp.W_gate[:, 0] = float("nan")
    with pytest.raises(ActivationError, match=r"blocks\.1\.mlp\.hook_post.*bfloat16"):
        capture.collect(broken, [[5, 6]], ["blocks.1.mlp.hook_post"])


def test_rows_dropped_when_they_end_change_no_other_row(tiny_llama):
    """Rows end at different steps under different interventions; each must get what it gets alone."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(5, 300, (4 + i % 5,), generator=generator).tolist() for i in range(12)]
    site = "blocks.1.hook_resid_post"

    def hooks(rows):
        amount = torch.tensor([0.0, 0.4, -0.3])[[row % 3 for row in rows]][:, None, None]
        return [(site, lambda a, hook: a + amount * a.roll(1, -1))]

    whole = generate(tiny_llama, ids, hooks=hooks, max_new_tokens=12, stop=(), max_rows=1)
    counts = torch.tensor([token for row in whole for token in row]).bincount()
    stop = [int(counts.argmax()), *counts.topk(6).indices.tolist()]
    alone = generate(tiny_llama, ids, hooks=hooks, max_new_tokens=12, stop=stop, max_rows=1)
    together = generate(tiny_llama, ids, hooks=hooks, max_new_tokens=12, stop=stop)
    assert together == alone
    assert len({len(row) for row in alone}) >= 4
    first = {}
    generate(
        tiny_llama,
        ids,
        hooks=hooks,
        max_new_tokens=3,
        stop=stop,
        on_first=lambda rows, logits: first.update(zip(rows, logits.argmax(-1).tolist())),
    )
    assert [first[i] for i in range(12)] == [row[0] for row in whole]
