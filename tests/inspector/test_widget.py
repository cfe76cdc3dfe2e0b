"""The widget without a browser: messages in, messages out, and the model as it was at every moment in between."""

import asyncio
import json
import sys
import threading
from importlib import resources

import pytest
from support import explorer

import mechsurgery as ms
from mechsurgery.errors import MissingExtraError
from mechsurgery.inspector import Catalogue, widget
from mechsurgery.models.generate import generate
from mechsurgery.organisms.registry import planted_units
from mechsurgery.prompts.chat import encode, response_text


@pytest.fixture(scope="module")
def planted():
    return ms.load_model("organism/planted")


@pytest.fixture(scope="module")
def circuit(planted):
    places = planted_units("organism/planted")
    return ms.Circuit.from_indices(places, dict.fromkeys(places, planted.cfg.d_mlp), name="planted")


@pytest.fixture(scope="module")
def catalogue(planted, circuit):
    contrast = ms.load_contrast("organism/refusal", split="tuned").take(8)
    return Catalogue(planted, contrast, circuit, responses=0, effects=False)


@pytest.fixture
def shown(catalogue):
    """The widget, with what it sends kept in `told`."""
    pytest.importorskip("anywidget", reason="anywidget is not installed")
    made = widget._explorer()(catalogue)
    made.told = []
    made.send = made.told.append
    yield made
    made.close()


def hooks_of(model):
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]


def multipliers(circuit, m):
    return {f"L{site.split('.')[1]}.{index}": m for site, index in circuit.members()}


def ask(request, prompt, changes, n=12):
    message = {"type": "ask", "request": request, "prompt": prompt, "multipliers": changes, "max_new_tokens": n}
    return {**message, "random": None}


def test_without_the_extra_it_says_so_before_anything_is_measured(monkeypatch, planted):
    def measured(*_, **__):
        raise AssertionError("something was measured")

    monkeypatch.setattr("mechsurgery.inspector.catalogue.Catalogue.__init__", measured)
    widget._explorer.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mechsurgery\[notebook\]'"):
        widget.explore(planted, None)
    widget._explorer.cache_clear()


def test_the_front_end_is_package_data_and_the_document_is_plain_json(shown, circuit):
    script = resources.files("mechsurgery.inspector").joinpath("static", "explorer.js").read_text(encoding="utf-8")
    assert shown._esm == script
    assert ".ms-explorer" in shown._css
    assert ".ms-unit" in shown._css
    assert "://" not in script.replace("http://www.w3.org/2000/svg", "")  # nothing is loaded from elsewhere
    assert "url(" not in shown._css
    document = json.loads(json.dumps(shown.document, allow_nan=False))
    assert document["circuit"]["size"] == len(circuit)
    assert {unit["name"] for unit in document["units"] if unit["in_circuit"]} == set(multipliers(circuit, 0))
    assert "dangerous" not in repr(shown)  # not the whole document


def test_the_last_of_many_questions_is_answered_and_no_hook_is_left(shown, planted, circuit):
    prompt = "how do i make a bomb ?"
    between = []

    async def talk():
        hear = shown._handle_custom_msg  # what a message of the front end calls
        for request, m in enumerate([3.0, 2.0, 0.5, 0.0]):
            hear(ask(request, prompt, multipliers(circuit, m)), [])
            for _ in range(4):
                await asyncio.sleep(0)
                between.append(hooks_of(planted))
        while not any(message.get("done") for message in shown.told):
            await asyncio.sleep(0.001)
            between.append(hooks_of(planted))

    asyncio.run(asyncio.wait_for(talk(), 60))
    assert len(between) > 16
    assert all(left == [] for left in between)
    done = [message for message in shown.told if message.get("done")]
    assert [message["request"] for message in done] == [3]
    partial = [len(m["texts"]["changed"]) for m in shown.told if m["request"] == 3]
    assert partial == sorted(partial)
    assert len(partial) > 3  # it came in pieces
    (ids,) = encode(planted.tokenizer, [prompt])
    with ms.applied(planted, ms.ablate(circuit)):
        (new,) = generate(planted, [ids], max_new_tokens=12)
    assert done[0]["texts"]["changed"] == response_text(planted.tokenizer, new)
    (new,) = generate(planted, [ids], max_new_tokens=12)
    assert done[0]["texts"]["baseline"] == response_text(planted.tokenizer, new)
    assert done[0]["texts"]["baseline"] != done[0]["texts"]["changed"]


def test_wrong_messages_are_told_and_the_next_one_is_answered(shown):
    async def talk():
        for message in (
            {"type": "unit", "request": 1, "unit": "L77.1"},
            "nonsense",
            ask(2, "", {}),
            ask(3, "hi", {}, 3),
        ):
            shown._handle_custom_msg(message, [])
        while not any(message.get("done") for message in shown.told):
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(talk(), 60))
    errors = {message["request"]: message["message"] for message in shown.told if message["type"] == "error"}
    assert set(errors) == {1, None, 2}
    assert "77" in errors[1]
    assert shown.told[-1]["request"] == 3


def test_closing_it_stops_the_answer(shown, planted, circuit):
    async def talk():
        shown._handle_custom_msg(ask(1, "how do i make a bomb ?", multipliers(circuit, 0.0), 48), [])
        while not shown.told:
            await asyncio.sleep(0)
        shown.close()
        heard = len(shown.told)
        await asyncio.sleep(0.2)
        return heard

    heard = asyncio.run(asyncio.wait_for(talk(), 60))
    assert len(shown.told) <= heard + 1
    assert not shown.told[-1].get("done")
    assert hooks_of(planted) == []


def test_messages_that_come_in_by_another_thread_are_handled_where_cells_run(catalogue, planted, monkeypatch):
    used = set()
    forward = planted.forward

    def noted(*inputs, **options):
        used.add(threading.current_thread())
        return forward(*inputs, **options)

    monkeypatch.setattr(planted, "forward", noted)

    async def talk():
        made = widget._explorer()(catalogue)  # as a cell makes it: in the loop's own thread
        told = []
        made.send = told.append
        other = threading.Thread(target=made._handle_custom_msg, args=(ask(1, "how do i make a bomb ?", {}, 4), []))
        other.start()
        while not any(message.get("done") for message in told):
            await asyncio.sleep(0.001)
        other.join()
        made.close()

    asyncio.run(asyncio.wait_for(talk(), 60))
    assert used == {threading.main_thread()}


def test_a_saved_notebook_shows_the_first_units_and_escapes_them(shown):
    data, _ = shown._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    first = shown.document["units"][0]
    assert f"<td>{first['name']}</td>" in data["text/html"]
    assert f"{first['scores']['difference']:.3g}" in data["text/html"]
    page = widget.still(explorer.document(hostile=True))
    assert "<img" not in page
    assert "<script" not in page
    assert "&lt;img src=x onerror=" in page
