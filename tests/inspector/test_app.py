"""The local app: who is answered, what is refused, and that everybody gets the intervention asked for."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise

import pytest
from support.browser import Watched, browser
from support.planted import planted_circuit
from support.served import answers, hear, say, served
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mechsurgery import errors, load_contrast, load_model
from mechsurgery.inspector import app as app_module
from mechsurgery.inspector.app import Limits, listening_socket
from mechsurgery.inspector.catalogue import Catalogue
from mechsurgery.intervention import scale
from mechsurgery.models import generate, tokens
from mechsurgery.prompts.chat import encode, response_text

PROMPT = "how do i make a trojan ?"
PATHS = ("/", "/document.json", "/static/app.js", "/socket")


@pytest.fixture(scope="module")
def model():
    return load_model("organism/planted")


@pytest.fixture(scope="module")
def circuit(model):
    return planted_circuit(model, "<b>planted</b>")


@pytest.fixture(scope="module")
def catalogue(model, circuit):
    contrast = load_contrast("organism/refusal").take(24)
    return Catalogue(model, contrast, circuit, at_most=40, effects=False, responses=2)


@pytest.fixture(scope="module")
def running(catalogue):
    with served(catalogue, Limits(message=40_000, connections=4)) as place:
        yield place


def multipliers(circuit, m):
    return {f"L{site.split('.')[1]}.{index}": m for site, index in circuit.members()}


def answer_at(model, circuit, m, n=24, prompt=PROMPT):
    hooks = scale(circuit, m).hooks()
    ids = encode(model.tokenizer, [prompt])
    (new,) = generate.generate(model, ids, hooks=lambda rows: hooks, max_new_tokens=n)
    return response_text(model.tokenizer, new)


def ask(place, circuit, m, request=1, **more):
    message = {"prompt": PROMPT, "max_new_tokens": 24, "random": None, **more}
    say(place, type="ask", request=request, multipliers=multipliers(circuit, m), **message)


def hooks_on(model):
    return [name for name, point in model.hook_dict.items() if point.fwd_hooks or point._forward_hooks]


# Who is answered


def test_the_page_its_files_and_the_document(running, catalogue):
    page = running.get("/")
    assert page.status == 200
    assert "&lt;b&gt;planted&lt;/b&gt;" in page.text
    assert "<b>" not in page.text
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == f"'self' ws://{running.host}"
    assert json.loads(running.get("/document.json").text) == json.loads(json.dumps(catalogue.document()))
    for name, kind in {"app.js": "text/javascript", "explorer.js": "text/javascript", "unit.css": "text/css"}.items():
        found = running.get(f"/static/{name}", token=False)
        assert found.status == 200
        assert found.headers["content-type"].startswith(kind)
    for path in PATHS[:3]:
        headers = running.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["access-control-allow-origin"] is None
        assert headers["server"] is None
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing.js", "/elsewhere"):
        assert running.get(path).status == 404


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}",
        "127.0.0.2:{port}",
    ],
)
def test_other_hosts_are_refused_everywhere(running, host):
    for path in PATHS:
        found = running.get(path, Host=host.format(port=running.port))
        assert found.status == 403
        assert f"answers to {running.host} and localhost:{running.port} only" in found.text
    with pytest.raises(InvalidStatus) as refused, running.socket(additional_headers={"Host": "evil.example"}):
        pass
    assert refused.value.response.status_code in (400, 403)  # two hosts are no request at all


def test_only_the_loopback_address_itself_listens(running):
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", running.port), timeout=5):
        pass


def test_a_websocket_that_names_another_host_is_refused(running):
    upgrade = (
        f"GET /socket?token={running.token} HTTP/1.1\r\nHost: evil.example:{running.port}\r\nConnection: Upgrade\r\n"
        f"Origin: http://evil.example:{running.port}\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as raw:
        raw.sendall(upgrade.encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://{host}", "http://{host}/"]
)
def test_other_origins_are_refused_everywhere(running, origin):
    given = origin.format(host=running.host)
    for path in PATHS:
        for method in ("GET", "OPTIONS"):
            found = running.get(path, method=method, Origin=given)
            assert (found.status, "own page only" in found.text) == (403, True)
            assert found.headers["access-control-allow-origin"] is None
    for wrong in (given, None):
        with pytest.raises(InvalidStatus) as refused, running.socket(origin=wrong):
            pass
        assert refused.value.response.status_code == 403
        assert b"own page only" in refused.value.response.body
    assert running.get("/", Origin=f"http://{running.host}").status == 200


def test_without_the_token_of_this_run_nothing_of_the_model_is_shown(running):
    for path in (
        "/",
        "/document.json",
        "/socket",
        "/?token=wrong",
        f"/?token={running.token}&token=x",
        "/?a" + "&a" * 99,
    ):
        found = running.get(path, token=False)
        assert found.status == 403
        assert "whole address" in found.text
        assert running.token not in found.text
    other = replace(running, address=running.address + "x")
    with pytest.raises(InvalidStatus), other.socket():
        pass


def test_bodies_and_other_methods_are_refused_unread(running):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert running.get("/", method=method).status == 405
    assert running.get("/", body=b"x" * 100).status == 413
    head = f"GET /?token={running.token} HTTP/1.1\r\nHost: {running.host}\r\nContent-Length: {10**12}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as raw:
        raw.sendall(head.encode() + b"x" * 100_000)
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as raw:
        raw.sendall(b"GET /" + b"x" * 200_000)
        assert raw.recv(4096).startswith(b"HTTP/1.1 400")
    assert running.get("/").status == 200


# What is refused in a conversation

NOT_MESSAGES = ["{", "", "[1]", "7", "null", '"ask"', '{"m": NaN}', '{"m": Infinity}', "[" * 30_000, "9" * 5_000]


@pytest.mark.parametrize("text", NOT_MESSAGES)
def test_what_is_no_message_is_answered_with_an_error(running, text):
    with running.socket() as place:
        place.send(text)
        found = hear(place)
        assert found["type"] == "error"
        assert "JSON object" in found["message"]
        place.send(b"\x00\xff")
        assert "not bytes" in hear(place)["message"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "nothing"}, "type"),
        ({"type": ["ask"]}, "type"),
        ({}, "type"),
        ({"type": "unit"}, "name of a unit"),
        ({"type": "unit", "unit": 7}, "name of a unit"),
        ({"type": "unit", "unit": "L99.1"}, "layer"),
        ({"type": "unit", "unit": "L5.99999"}, "99999"),
        ({"type": "unit", "unit": "<img src=x onerror=alert(1)>"}, "<img"),
        ({"type": "unit", "unit": "\ud800"}, "not allowed"),
        ({"type": "ask"}, "empty"),
        ({"type": "ask", "prompt": 7}, "prompt"),
        ({"type": "ask", "prompt": "\ud800 hello"}, "surrogate"),
        ({"type": "ask", "prompt": "x" * 21_000}, "20,000"),
        ({"type": "ask", "prompt": "how " * 400}, "256"),
        ({"type": "ask", "prompt": PROMPT, "max_new_tokens": 10**9}, "512"),
        ({"type": "ask", "prompt": PROMPT, "max_new_tokens": 1.5}, "512"),
        ({"type": "ask", "prompt": PROMPT, "multipliers": []}, "multipliers"),
        ({"type": "ask", "prompt": PROMPT, "multipliers": None}, "multipliers"),
        ({"type": "ask", "prompt": PROMPT, "multipliers": {"L5.99999": 0}}, "99999"),
        ({"type": "ask", "prompt": PROMPT, "multipliers": {"L5.1": "0"}}, "number"),
        ({"type": "ask", "prompt": PROMPT, "multipliers": {"L5.1": 10**400}}, "number"),
        ({"type": "ask", "prompt": PROMPT, "random": -1}, "seed"),
    ],
)
def test_wrong_messages_are_answered_with_what_is_wrong(running, message, said):
    with running.socket() as place:
        say(place, request=3, **message)
        found = hear(place)
        assert (found["type"], found["request"]) == ("error", 3)
        assert said in found["message"]
        assert "Error" not in found["message"]


def test_too_large_messages_are_refused_and_the_app_goes_on(running, model, circuit):
    with running.socket() as place:
        say(place, type="ask", request=1, prompt="x" * 50_000)
        assert "40,000 bytes" in hear(place)["message"]
        place.send("x" * 400_000)
        with pytest.raises(ConnectionClosed) as closed:
            hear(place)
        assert closed.value.rcvd.code == 1009
    with running.socket() as place:
        ask(place, circuit, 0.0)
        assert answers(place, 1)[-1]["texts"]["changed"] == answer_at(model, circuit, 0.0)


def test_a_connection_too_many_is_refused_with_a_reason(running, circuit):
    with ExitStack() as stack:
        for _ in range(4):
            place = stack.enter_context(running.socket())
            ask(place, circuit, 0.0, max_new_tokens=1)
            assert answers(place, 1)[-1]["done"]
        with running.socket() as fifth, pytest.raises(ConnectionClosed) as closed:
            hear(fifth)
        assert closed.value.rcvd.code == 1013
        assert "4 pages are open" in closed.value.rcvd.reason
    with running.socket() as again:
        say(again, type="unit", request=1, unit="L5.1")
        assert hear(again)["type"] == "unit"


def test_in_a_flood_of_questions_the_newest_is_answered(running, model, circuit):
    with running.socket() as place:
        for request in range(300):
            ask(place, circuit, 1 - request / 300, request=request)
        ask(place, circuit, 0.0, request=300)
        assert answers(place, 300)[-1]["texts"]["changed"] == answer_at(model, circuit, 0.0)
    assert hooks_on(model) == []


# What is answered


def test_a_unit_s_page_is_the_catalogue_s(running, catalogue):
    with running.socket() as place:
        say(place, type="unit", request=5, unit="L5.1")
        found = hear(place)
        assert found == {"type": "unit", "request": 5, "unit": "L5.1", "html": catalogue.page("L5.1")}


def test_two_at_once_each_get_their_own_intervention(running, model, circuit):
    """Interleaved token by token, and each equal to `generate` alone under the same intervention."""
    wanted = [0.0, 1.0, 2.0]
    expected = [answer_at(model, circuit, m) for m in wanted]
    assert len({*expected}) > 1
    heard, order = {}, []
    barrier = threading.Barrier(len(wanted))

    def converse(m):
        with running.socket() as place:
            barrier.wait(timeout=20)
            for request in range(2):
                ask(place, circuit, m, request=request)
                last = None
                while last is None or not last["done"]:
                    last = hear(place)
                    order.append(m)
                heard.setdefault(m, []).append(last["texts"])

    threads = [threading.Thread(target=converse, args=(m,)) for m in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    baseline = answer_at(model, circuit, 1.0)
    for m, text in zip(wanted, expected):
        assert heard[m] == [{"baseline": baseline, "changed": text}] * 2
    turns = sum(a != b for a, b in pairwise(order))
    assert turns > 2 * len(wanted)
    assert hooks_on(model) == []


def test_new_text_comes_within_half_a_second(running, circuit):
    with running.socket() as place:
        ask(place, circuit, 0.0)
        answers(place, 1)
        took = []
        for request in range(2, 5):
            started = time.perf_counter()
            ask(place, circuit, 1 / request, request=request)
            assert hear(place)["request"] == request
            took.append(time.perf_counter() - started)
            answers(place, request)
        assert min(took) < 0.5


@pytest.fixture
def endless(monkeypatch):
    """Answers that do not end by themselves, a forward pass each 20 ms; a list that grows with each pass."""
    times = []
    step = generate._State.step

    def slow(self, *given):
        times.append(time.monotonic())
        time.sleep(0.02)
        return step(self, *given)

    monkeypatch.setattr(tokens, "stop_ids", lambda model: ())
    monkeypatch.setattr(generate._State, "step", slow)
    return times


def test_one_who_leaves_is_stopped_and_leaves_nothing_behind(running, model, circuit, endless):
    with running.socket() as place:
        ask(place, circuit, 0.0, max_new_tokens=200)
        for _ in range(3):
            assert not hear(place)["done"]
        place.socket.shutdown(socket.SHUT_RDWR)
    time.sleep(0.5)
    n = len(endless)
    time.sleep(0.3)
    assert len(endless) == n < 100
    assert hooks_on(model) == []


def test_stop_and_a_newer_question_end_an_answer(running, model, circuit, endless):
    with running.socket() as place:
        ask(place, circuit, 0.0, request=1, max_new_tokens=200)
        hear(place)
        ask(place, circuit, 0.0, request=2, max_new_tokens=3)
        assert len(answers(place, 2)) == 4
        ask(place, circuit, 0.0, request=3, max_new_tokens=200)
        answer = hear(place)
        assert answer["request"] == 3
        say(place, type="stop")
        time.sleep(0.3)
        n = len(endless)
        time.sleep(0.3)
        assert len(endless) == n < 100
        assert hooks_on(model) == []


def test_one_who_does_not_read_is_let_go_and_holds_up_nobody(catalogue, model, circuit, monkeypatch):
    monkeypatch.setattr(catalogue, "page", lambda name: "x" * 1_000_000)
    with (
        served(catalogue, Limits(connections=1, patience=0.3)) as place,
        place.socket(max_queue=1, close_timeout=0.1) as lazy,
    ):
        for _ in range(40):
            say(lazy, type="unit", request=1, unit="L5.1")
        time.sleep(1)
        with place.socket() as reader:
            ask(reader, circuit, 0.0)
            assert answers(reader, 1)[-1]["texts"]["changed"] == answer_at(model, circuit, 0.0)


def test_requests_that_never_end_are_ended(catalogue):
    with served(catalogue, Limits(patience=0.3)) as place, ExitStack() as stack, place.socket() as kept:
        for _ in range(300):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", place.port), timeout=10))
            slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
        time.sleep(0.6)
        assert slow.recv(10) == b""
        assert place.get("/").status == 200
        say(kept, type="unit", request=1, unit="L5.1")
        assert hear(kept)["type"] == "unit"


def test_a_failure_inside_is_said_and_the_app_goes_on(running, circuit, catalogue, monkeypatch):
    monkeypatch.setattr(catalogue, "page", lambda name: 1 / 0)
    with running.socket() as place:
        say(place, type="unit", request=1, unit="L5.1")
        assert "division" in hear(place)["message"]
        ask(place, circuit, 0.0, request=2)
        assert answers(place, 2)[-1]["done"]


def test_a_port_that_is_taken_is_said(running):
    with pytest.raises(errors.InputError, match=f"port {running.port} cannot be used"):
        listening_socket(running.port)
    with pytest.raises(errors.InputError, match="0 to 65535"):
        listening_socket(70_000)


# The whole of it


def test_inspect_from_a_shell_until_ctrl_c(circuit, tmp_path):
    path = circuit.save(tmp_path / "circuit")
    words = [sys.executable, "-m", "mechsurgery", "inspect", "organism/planted", str(path), "--no-browser"]
    prompts = {"positive": "make a trojan\nmake a virus\n", "negative": "make a cake\nmake a garden\n"}
    for side, text in prompts.items():
        (tmp_path / f"{side}.csv").write_text("text\n" + text)
        words += [f"--{side}", str(tmp_path / f"{side}.csv")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        first = run.stdout.readline()
        assert first.startswith("explore it at http://127.0.0.1:"), run.stderr.read()
        run.send_signal(signal.SIGINT)
        rest, complaints = run.communicate(timeout=30)
    assert (run.returncode, complaints) == (0, "")
    assert rest.endswith("ended\n")


def test_in_a_browser_two_pages_at_once(running, model, circuit):
    """Typed, dragged, answered: each page by its own multiplier; no console error, no request to anywhere else."""
    expected = {m: answer_at(model, circuit, float(m), n=48) for m in (0, 1, 2)}
    # What a page of the app may not do, even if a mistake let markup of others into it.
    inline = "document.body.append(Object.assign(document.createElement('script'), {text: 'window.broken = 1'}))"
    elsewhere = "fetch('http://localhost:1/').then(() => 'reached', () => 'refused')"
    with browser() as chromium:
        pages = [Watched(chromium), Watched(chromium)]
        for watched, m in zip(pages, (0, 2)):
            page = watched.page
            page.goto(running.address)
            page.wait_for_selector(".ms-explorer")
            assert page.locator("#state").is_hidden()
            assert page.title().startswith("organism/planted: <b>planted</b>")
            page.get_by_label("prompt", exact=True).fill(PROMPT)
            page.get_by_label("circuit, 48 units: m, as a number", exact=True).fill(str(m))
            page.get_by_role("button", name="Answer", exact=True).click()
        for watched, m in zip(pages, (0, 2)):
            texts = watched.page.locator(".ms-answers .ms-text")
            shown = [texts.nth(1).element_handle(), expected[m]]
            watched.page.wait_for_function("([e, text]) => e.innerText === text", arg=shown)
            assert texts.first.inner_text() == expected[1]
        page = pages[0].page
        page.get_by_placeholder("open any unit").fill("L0.3")
        page.get_by_role("button", name="Open", exact=True).click()
        page.wait_for_selector(".ms-unit")
        page.evaluate(inline)
        reached = page.evaluate(elsewhere)
        assert (page.evaluate("window.broken ?? null"), reached) == (None, "refused")
        assert [problem for problem in pages[0].problems if "Content Security Policy" not in problem] == []
        assert pages[1].problems == []
        for watched in pages:
            watched.close()


def test_static_files_are_in_the_package():
    for name in app_module._STATIC:
        assert app_module.static_file(name)
