"""Caches that are filled in place, beginnings that are run once, and batches that memory has no room for."""

import logging

import pytest
import torch

from mechsurgery.models import cache, capture, fitting, load_model, prefix
from mechsurgery.models.generate import generate
from mechsurgery.models.positions import at_prompt_end

FAMILIES = ["llama", "gemma2", "gpt2", "qwen3", "neox"]
SHARED = ("calculate_attention_scores", "calculate_z_scores")
BEGINNING = [5, 9, 77, 300, 41, 8, 8, 250, 17, 33, 60, 12]


def prompts(lengths=(4, 9, 1, 6, 4, 11), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [BEGINNING + torch.randint(7, 360, (n,), generator=generator).tolist() for n in lengths]


@pytest.fixture
def unshared(monkeypatch):
    """A function that runs another without beginnings that are run once, counting the tokens of its passes."""

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(prefix, "_allows", lambda *_: False)
            return function()

    return run


def fed(model, function):
    """What a function gives, and the tokens with which the model's embedding was called meanwhile."""
    counted = []
    handle = model.get_submodule("embed").register_forward_hook(lambda module, args, out: counted.append(out.shape[:2]))
    try:
        return function(), sum(rows * length for rows, length in counted)
    finally:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_cache_filled_in_place_gives_the_same_logits(family, tiny_checkpoint):
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    model = load_model(tiny_checkpoint(family))
    ids = torch.randint(7, 360, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    theirs = TransformerLensKeyValueCache.init_cache(model.cfg, ids.device, 3)
    ours = cache.preallocated(model, 3, 6, ids.device)  # less room than is needed: it makes more
    assert ours.rotated == (model.cfg.positional_embedding_type == "rotary")
    for step in range(6):
        expected = model(ids, attention_mask=mask, past_kv_cache=theirs)
        with cache.reading(model, ours):
            found = model(ids, attention_mask=mask, past_kv_cache=ours)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        ids, mask = expected[:, -1:].argmax(-1), torch.ones(len(ids), 1, dtype=torch.long)
        if step == 2:
            ids, mask, keep = ids[[2, 0]], mask[[2, 0]], torch.tensor([2, 0])
            ours.keep(keep)
            for entry in theirs.entries:
                entry.past_keys, entry.past_values = entry.past_keys[keep], entry.past_values[keep]
            theirs.previous_attention_mask = theirs.previous_attention_mask[keep]
    assert all(name not in vars(block.attn) for block in model.blocks for name in ("apply_rotary", *SHARED))


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.no_grad()
def test_heads_that_share_keys_pass_every_hook_point_as_without_a_cache(family, dtype, tiny_checkpoint):
    model = load_model(tiny_checkpoint(family), dtype=dtype)
    ids = torch.randint(7, 360, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    points = [f"blocks.1.attn.hook_{name}" for name in ("q", "k", "v", "rot_q", "attn_scores", "pattern", "z")]
    halve = ("blocks.0.attn.hook_pattern", lambda x, hook: x * torch.linspace(0, 1, x.shape[1])[:, None, None].to(x))

    def seen(**how):
        kept = {}
        hooks = [(name, lambda x, hook: kept.update({hook.name: x.float().clone()})) for name in points]
        with model.hooks(fwd_hooks=[halve, *hooks]):
            kept["logits"] = model(ids, attention_mask=mask, **how).float()
        return kept

    with cache.reading(model, held := cache.preallocated(model, 3, 12, ids.device)):
        assert all(name in vars(model.blocks[2].attn) for name in SHARED)
        found = seen(past_kv_cache=held)
    for name, expected in seen().items():
        tolerance = 1e-5 if dtype == "float32" else 0.05
        torch.testing.assert_close(found[name], expected, atol=tolerance, rtol=tolerance)


def test_keys_that_someone_looks_at_are_rotated_anew(tiny_llama):
    seen = []
    tiny_llama.hook_dict["blocks.1.attn.hook_rot_k"].add_hook(lambda x, hook: seen.append(x.shape[1]))
    try:
        assert not cache.preallocated(tiny_llama, 2, 5, torch.device("cpu")).rotated
        generate(tiny_llama, prompts(), max_new_tokens=2, stop=())
    finally:
        tiny_llama.reset_hooks()
    assert seen == [23, 24]  # all of them


@pytest.mark.parametrize("family", [*FAMILIES, "llama3"])
def test_a_common_beginning_is_run_once_and_changes_no_answer(family, tiny_checkpoint, unshared):
    model = load_model(tiny_checkpoint(family, **({"sliding_window": 64} if family == "gemma2" else {})))
    ids = prompts()
    strength = torch.tensor([0.0, 1.5])

    def hooks(rows):
        factor = strength[[row % 2 for row in rows]][:, None, None]
        return [
            ("blocks.1.mlp.hook_post", lambda x, hook: x * factor),
            ("blocks.2.hook_resid_post", at_prompt_end(lambda x, hook: x + 3 * factor)),
        ]

    first = {}
    how = {"hooks": hooks, "max_new_tokens": 7, "stop": (), "max_rows": 4}
    how["on_first"] = lambda rows, logits: first.update(zip(rows, logits))
    expected, whole = fed(model, lambda: unshared(lambda: generate(model, ids, **how)))
    logits = torch.stack([first[row] for row in range(len(ids))])
    found, tokens = fed(model, lambda: generate(model, ids, alike=[row % 2 for row in range(len(ids))], **how))
    assert found == expected
    assert tokens == whole - 4 * len(BEGINNING)
    torch.testing.assert_close(torch.stack([first[row] for row in range(len(ids))]), logits, atol=1e-5, rtol=1e-5)
    ours = capture.next_token_logits(model, ids, hooks=hooks, alike=[row % 2 for row in range(len(ids))])
    torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_measured_activations_are_those_of_whole_prompts(family, tiny_checkpoint, unshared):
    model = load_model(tiny_checkpoint(family, **({"sliding_window": 64} if family == "gemma2" else {})))
    names = ["blocks.0.hook_resid_pre", "blocks.1.mlp.hook_post", "blocks.2.hook_attn_out"]
    found, tokens = fed(model, lambda: capture.collect(model, prompts(), names, max_rows=4))
    expected, whole = fed(model, lambda: unshared(lambda: capture.collect(model, prompts(), names, max_rows=4)))
    assert tokens == whole - 4 * len(BEGINNING)  # once in each batch of 4 and 2
    for name in names:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


def test_nothing_is_shared_where_it_could_change_a_number(tiny_llama, tiny_checkpoint):
    ids = prompts()
    assert prefix.run_prefix(tiny_llama, ids).n == len(BEGINNING)
    hooks = [("blocks.1.attn.hook_pattern", lambda x, hook: x)]
    assert prefix.run_prefix(tiny_llama, ids, hooks=lambda rows: []) is None  # every row may have its own
    assert prefix.run_prefix(tiny_llama, ids, hooks=lambda rows: hooks, alike=[0] * len(ids)) is None
    assert prefix.run_prefix(tiny_llama, [[1, *row] if row is ids[0] else row for row in ids]) is None
    assert prefix.run_prefix(load_model(tiny_checkpoint("gemma2")), ids) is None  # windows of 5 tokens
    tiny_llama.hook_dict["blocks.1.hook_resid_pre"].add_hook(lambda x, hook: x)
    try:
        assert prefix.run_prefix(tiny_llama, ids) is None
    finally:
        tiny_llama.reset_hooks()


@pytest.fixture
def small_memory(tiny_llama):
    """A model whose third layer has no memory for more than 2 rows, from the second new token on or at once."""
    limit = {"rows": 2, "from_length": 0, "error": torch.OutOfMemoryError("CUDA out of memory")}

    def refuse(module, args, kwargs):
        entry = kwargs.get("past_kv_cache_entry")
        length = args[0].shape[1] + (0 if entry is None else entry.past_keys.shape[1])
        if len(args[0]) > limit["rows"] and length >= limit["from_length"]:
            raise limit["error"]

    handle = tiny_llama.blocks[2].register_forward_pre_hook(refuse, with_kwargs=True)
    yield tiny_llama, limit
    handle.remove()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you …"),
    ],
)
@pytest.mark.parametrize("from_length", [0, 20])
def test_batches_that_do_not_fit_are_halved(error, from_length, small_memory, caplog):
    model, limit = small_memory
    ids = prompts((9, 9, 8, 8, 7, 7, 6))
    limit["rows"] = 99
    handed = []
    how = {"max_new_tokens": 6, "stop": (), "on_first": lambda rows, logits: handed.extend(rows)}
    expected = generate(model, ids, **how)
    handed.clear()
    limit |= {"rows": 2, "from_length": from_length, "error": error}
    with caplog.at_level(logging.WARNING):
        assert generate(model, ids, **how) == expected
    assert sorted(handed) == list(range(len(ids)))  # nothing lost, nothing handed over twice
    assert [record.getMessage() for record in caplog.records] == [
        "memory ran out with 7 rows at once; going on with 4",
        "memory ran out with 4 rows at once; going on with 2",
    ]
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("positions", ["last", "mean", "all"])
def test_no_activation_is_measured_twice_or_lost(positions, small_memory):
    model, limit = small_memory
    ids = prompts((9, 9, 8, 8, 7, 7, 6))
    names = ["blocks.0.mlp.hook_post", "blocks.3.mlp.hook_post"]

    def measured():
        rows = {name: [] for name in names}
        capture.stream(model, ids, names, lambda name, x, own: rows[name].extend(own), positions=positions)
        return {name: sorted(own) for name, own in rows.items()}

    few = measured()
    limit["rows"] = 99
    assert few == measured()


def test_an_error_of_the_measuring_function_itself_stands(tiny_llama):
    calls = []

    def update(site, activation, rows):
        calls.append(rows)
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        capture.stream(tiny_llama, prompts(), ["blocks.0.mlp.hook_post"], update)
    assert len(calls) == 1


def test_one_row_that_does_not_fit_and_other_errors_are_raised(small_memory):
    model, limit = small_memory
    limit["rows"] = 0
    with pytest.raises(torch.OutOfMemoryError) as caught:
        generate(model, prompts(), max_new_tokens=2)
    assert any("one prompt alone" in note for note in caught.value.__notes__)
    limit["error"] = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        generate(model, prompts(), max_new_tokens=2)


def test_rows_come_from_memory(tiny_llama, monkeypatch):
    ids = prompts((20,) * 100)
    row = fitting.bytes_per_row(tiny_llama, 32, 10)
    assert row > fitting.bytes_per_row(tiny_llama, 32) > 2 * 4 * 2 * 12 * 32 * 4  # keys and values among others
    for free, most, rows in ((8 * row, None, 4), (8 * row, 3, 3), (10**12, None, 64), (10**12, 99, 99), (1, 9, 1)):
        monkeypatch.setattr(fitting.memory, "available", lambda device, free=free: free)
        assert fitting.rows_at_once(tiny_llama, ids, max_rows=most, new_tokens=10) == rows
