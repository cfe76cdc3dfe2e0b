"""The chat in the terminal: what it answers equals `generate`, and its commands do what they say."""

import signal

import pytest
import torch
from click.testing import CliRunner
from support.planted import planted_circuit

from mechsurgery import Circuit, Direction, errors, load_model, load_sae
from mechsurgery.cli import main
from mechsurgery.inspector.chat import Chat, _settled, converse, stoppable
from mechsurgery.intervention import scale, scale_latents, steer
from mechsurgery.models import generate
from mechsurgery.prompts.chat import encode, response_text
from mechsurgery.safe_text import visible

#: New tokens; at the usual multipliers answers end before.
MOST = 32
PROMPT, NEXT = "how do i make a trojan ?", "tell me how to make a trojan ."


@pytest.fixture(scope="module")
def model():
    return load_model("organism/planted")


@pytest.fixture(scope="module")
def circuit(model):
    return planted_circuit(model, "planted")


@pytest.fixture(scope="module")
def direction(model):
    site = "blocks.3.hook_resid_post"
    return Direction(
        {site: 2 * torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(2))}, "somewhere"
    )


def answer(model, ids, intervention=None, n=MOST):
    hooks = [] if intervention is None else intervention.hooks()
    (new,) = generate.generate(model, [ids], hooks=lambda rows: hooks, max_new_tokens=n)
    return response_text(model.tokenizer, new)


def talk(model, **options):
    return Chat(model, **{"max_new_tokens": MOST, **options})


def said(chat, *lines):
    """What the chat writes for some lines, without the last line break and notes that an answer was cut."""
    written = []
    converse(chat, iter(lines), written.append)
    return "".join(text for text in written if "[cut after" not in text).removesuffix("\n")


def hooks_on(model):
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks or point._forward_hooks]


def test_answers_equal_generate_under_the_same_intervention(model, circuit, direction):
    ids = encode(model.tokenizer, [PROMPT])[0]
    expected = {m: answer(model, ids, scale(circuit, m)) for m in (0.0, 1.0, 2.5)}
    assert expected[0.0] != expected[1.0]
    for m, text in expected.items():
        assert said(talk(model, circuit=circuit, m=m), PROMPT) == text
    assert expected[1.0] == answer(model, ids)
    steered = answer(model, ids, steer(direction).at(2.0))
    assert steered != expected[1.0]
    assert said(talk(model, direction=direction, strength=2.0), PROMPT) == steered
    both = answer(model, ids, scale(circuit, 0.0) + steer(direction).at(-3.0))
    assert both not in (expected[0.0], steered)
    assert said(talk(model, circuit=circuit, direction=direction, strength=-3.0), PROMPT) == both
    assert hooks_on(model) == []


def test_latents_of_an_autoencoder_are_scaled_too(tmp_path):
    base = load_model("organism/base")
    sae = load_sae("organism/sae-topk-4", model=base)
    prompt = "where is the museum ?"
    ids = encode(base.tokenizer, [prompt])[0]
    with torch.no_grad():
        latents = sae.encode(base.run_with_cache(torch.tensor([ids]))[1][sae.hook_name])[0].mean(0)
    circuit = Circuit.from_indices({sae.site: latents.topk(40).indices.tolist()}, {sae.site: sae.n_latents})
    expected = answer(base, ids, scale_latents(circuit, sae, -3.0))
    assert expected != answer(base, ids)
    assert said(talk(base, circuit=circuit, dictionary=sae, m=-3.0), prompt) == expected
    words = [
        "chat",
        "organism/base",
        "--circuit",
        str(circuit.save(tmp_path / "c")),
        "--m",
        "-3",
        "--max-new-tokens",
        str(MOST),
    ]
    done = CliRunner().invoke(main, [*words, "--sae", "organism/sae-topk-4"], input=prompt)
    assert done.stdout.splitlines()[0] == expected
    assert "--sae" in CliRunner().invoke(main, words).output


def test_turns_are_put_together_by_the_model_s_own_template(model, circuit):
    chat = talk(model, circuit=circuit, m=0.0)
    first = said(chat, PROMPT)
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": first}]
    messages.append({"role": "user", "content": NEXT})
    tokens = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert chat.ids(NEXT) == list(tokens)
    assert said(chat, NEXT) == answer(model, list(tokens), scale(circuit, 0.0))
    assert said(chat, "/reset") == "the conversation is forgotten"
    assert chat.ids(NEXT) == encode(model.tokenizer, [NEXT])[0]


def test_without_a_template_every_line_stands_by_itself(tiny_checkpoint, circuit):
    bare = load_model(tiny_checkpoint("llama", template=False))
    widths = {f"blocks.{layer}.mlp.hook_post": bare.cfg.d_mlp for layer in range(bare.cfg.n_layers)}
    own = Circuit.from_indices({"blocks.0.mlp.hook_post": [1, 2, 3]}, widths)
    chat = talk(bare, circuit=own, max_new_tokens=4)
    assert "prompt by itself" in chat.introduction()
    said(chat, "Hello there", "And again")
    assert chat.turns == []
    assert chat.ids("And again") == encode(bare.tokenizer, ["And again"])[0]
    with pytest.raises(errors.SiteError, match="no hook point"):
        talk(bare, circuit=circuit)


def test_commands_change_what_is_done(model, circuit):
    ids = encode(model.tokenizer, [PROMPT])[0]
    at = {m: answer(model, ids, scale(circuit, m)) for m in (0.0, 1.0, 0.5)}
    chat = talk(model, circuit=circuit, single=True)
    lines = ["/m 0.5", PROMPT, "/off", PROMPT, "/on", "/m 0", "/both", PROMPT, "/off", PROMPT, "/both", PROMPT]
    off = "off: the unchanged model"
    beside = [f"unchanged: {at[1.0]}", f"m = 0: {at[0.0]}"]
    expected = ["m = 0.5", at[0.5], off, at[1.0], "m = 0.5", "m = 0", "both answers from now on", *beside]
    assert said(chat, *lines).split("\n") == [*expected, off, at[1.0], "one answer from now on", at[1.0]]
    assert said(chat, "/quit", PROMPT) == ""
    assert "/both" in said(chat, "/help")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/m", "m must be a number"),
        ("/m nan", "m must be a number"),
        ("/m x y", "'x y'"),
        ("/strength 2", "without one"),
        ("/made up", "no command '/made'; /help lists them"),
        ("how " * 300, "300 tokens"),
        ("a \ud800 half", "surrogate"),
    ],
)
def test_errors_are_one_line_and_the_chat_goes_on(model, circuit, line, why):
    chat = talk(model, circuit=circuit, m=0.0)
    before, after = said(talk(model, circuit=circuit, m=0.0), PROMPT), said(chat, line, PROMPT)
    error, following = after.split("\n")
    assert error.startswith("error: ")
    assert why.replace("300 tokens", "more than the context of 256") in error
    assert following == before


def test_a_full_context_is_said(model, circuit):
    chat = talk(model, circuit=circuit, m=0.0)
    chat.turns = [("user", "how " * 200), ("assistant", "no .")]
    room = model.cfg.n_ctx + 1 - len(chat.ids(PROMPT))
    assert 0 < room < 100
    chat.turns[0] = ("user", "how " * (200 + room - 2))
    assert said(chat, PROMPT).endswith("[cut: the context of 256 tokens is full; /reset begins anew]")
    assert "more than the context of 256; /reset begins anew" in said(chat, PROMPT)
    short = talk(model, circuit=circuit, m=0.0, max_new_tokens=2)
    written = []
    converse(short, iter([PROMPT]), written.append)
    assert written[-1] == "\n[cut after 2 tokens; --max-new-tokens allows more]\n"


def test_it_streams_and_ctrl_c_stops_only_the_answer(model, circuit):
    whole = said(talk(model, circuit=circuit, m=0.0), PROMPT)
    written = []

    def write(text):
        written.append(text)
        if len(written) == 2:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    chat = talk(model, circuit=circuit, m=0.0)
    converse(chat, iter([PROMPT, "/reset", PROMPT]), write)
    assert "".join(written[:2]) != whole
    assert whole.startswith("".join(written[:2]))
    assert written[2] == "\n[stopped]\n"
    assert "".join(written[4:]) == f"{whole}\n"
    assert signal.getsignal(signal.SIGINT) is handler
    assert hooks_on(model) == []
    with stoppable() as stopped:
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_a_model_says_cannot_command_the_terminal():
    assert visible("a\x1b[2J\x07\x9b1m\tb\nc\x7f 你好 🙂") == "a␛[2J␇⟨U+009B⟩1m\tb\nc␡ 你好 🙂"


def test_growing_text_shows_no_half_characters_and_no_next_turn():
    stops = ("\nUser:",)
    assert _settled("yes \ufffd", ()) == "yes "
    assert _settled("yes.\nUs", stops) == "yes."
    assert _settled("yes.\nUser: and", stops) == "yes."
    assert _settled("yes.\nSo", stops) == "yes.\nSo"


def test_from_a_shell(model, circuit, direction, tmp_path):
    files = ["--circuit", str(circuit.save(tmp_path / "c")), "--steer", str(direction.save(tmp_path / "d"))]
    options = ["chat", "organism/planted", *files, "--m", "0", "--strength", "0.5", "--max-new-tokens", str(MOST)]
    done = CliRunner().invoke(main, options, input=f"{PROMPT}\n/m 1\n//off\n/nothing\n")
    assert done.exit_code == 0, done.output
    ids = encode(model.tokenizer, [PROMPT])[0]
    lines = done.stdout.splitlines()
    assert lines[0] == answer(model, ids, scale(circuit, 0) + steer(direction).at(0.5))
    assert "m = 1, strength = 0.5" in lines[1:3]
    assert lines[-1] == "error: no command '/nothing'; /help lists them"
    assert "organism/planted with planted and somewhere at m = 0, strength = 0.5" in done.stderr
    mixed = ["--steer", files[1]]
    for wrong, why in (([], "--circuit FILE"), (["--circuit", "nowhere"], "no file"), (mixed, "not a Direction")):
        failed = CliRunner().invoke(main, ["chat", "organism/planted", *wrong])
        assert failed.exit_code in (1, 2)
        assert why in failed.output
