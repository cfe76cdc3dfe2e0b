"""Endpoints that are asked much: a bounded number of requests at once, each answer in its place, cost counted."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mechsurgery import Generation, evaluate
from mechsurgery.adapters.asking import Stopped, at_once
from mechsurgery.adapters.endpoints import EndpointJudge
from mechsurgery.errors import InputError
from mechsurgery.grading.judged import judged
from mechsurgery.grading.recorded import RecordedJudge, Recording


@pytest.fixture
def server():
    """A server that answers with the prompt in capitals, after a while, and remembers how many it had at once."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with self.server.lock:
                self.server.open += 1
                self.server.most = max(self.server.most, self.server.open)
                self.server.asked.append(body["messages"][0]["content"])
            time.sleep(0.05)
            text = body["messages"][0]["content"]
            said = {"choices": [{"message": {"content": text.upper()}}], "usage": self.server.usage}
            reply = json.dumps(said).encode()
            with self.server.lock:
                self.server.open -= 1
            self.send_response(400 if "wrong" in text else 200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)
            self.close_connection = True

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.lock, running.open, running.most, running.asked = threading.Lock(), 0, 0, []
        running.usage = {"prompt_tokens": 100, "completion_tokens": 10}
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def judge_at(server, **options):
    how = {"key_env": None, "requests_per_minute": 1e6, "longest_pause": 0.01, "timeout": 5.0, **options}
    return EndpointJudge(f"http://127.0.0.1:{server.server_port}/v1", "m", **how)


def test_answers_come_in_order_from_a_bounded_number_of_requests(server):
    prompts = [f"p{i}" for i in range(12)]
    assert judge_at(server, at_once=3).answers([*prompts, "p0"]) == [*(prompt.upper() for prompt in prompts), "P0"]
    assert sorted(server.asked) == sorted(prompts)
    assert 2 <= server.most <= 3


def test_an_error_stops_what_has_not_begun_and_what_came_is_kept(server, tmp_path):
    judge = judge_at(server, at_once=2, cache=tmp_path)
    with pytest.raises(InputError, match="status 400"):
        judge.answers([f"p{i}" for i in range(4)] + ["wrong"] + [f"q{i}" for i in range(40)])
    asked = len(server.asked)
    assert asked < 20
    time.sleep(0.3)
    assert len(server.asked) == asked
    assert judge.answers(["p0", "p1"]) == ["P0", "P1"]
    assert len(server.asked) == asked


def test_tokens_and_cost_are_counted_and_kept_answers_cost_nothing(server, tmp_path):
    judge = judge_at(server, cache=tmp_path, price=(2.0, 8.0))
    judge.answers(["a", "b", "c"])
    counts = {"asked": 3, "kept": 0, "prompt_tokens": 300, "completion_tokens": 30}
    assert judge.spent == {**counts, "cost": pytest.approx((300 * 2 + 30 * 8) / 1e6)}
    again = judge_at(server, cache=tmp_path, price=(2.0, 8.0))
    again.answers(["a", "b"])
    assert again.spent == {"asked": 0, "kept": 2, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0}
    assert "cost" not in judge_at(server).spent
    for server.usage in (
        None,
        [],
        {"prompt_tokens": "7"},
        {"prompt_tokens": -1},
        {"prompt_tokens": True},
        {"other": 1e300},
    ):
        told = judge_at(server)
        assert told.answers(["x"]) == ["X"]
        assert (told.spent["prompt_tokens"], told.spent["asked"]) == (0, 1)


@pytest.mark.parametrize(
    "wrong", [{"at_once": 0}, {"at_once": 1.5}, {"price": (-1, 0)}, {"price": (1.0, float("nan"))}]
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError):
        EndpointJudge("https://host/v1", "m", **wrong)


def test_an_evaluation_writes_down_what_its_judges_cost_and_its_recording_replays_without_them(
    server, tiny_llama, contrast, tmp_path
):
    prompts, how = contrast.positive.take(3), {"generation": Generation(max_new_tokens=3)}
    recording = Recording(judge_at(server, price=(2.0, 8.0)), tmp_path / "answers.json")
    asked = evaluate(tiny_llama, prompts, grades=[judged(recording, "it is rude")], **how)
    (spent,) = asked.info["judges"].values()
    assert spent["asked"] == len(server.asked) > 0
    assert spent["cost"] == pytest.approx(spent["asked"] * (100 * 2 + 10 * 8) / 1e6)
    n = len(server.asked)
    replayed = RecordedJudge.load(tmp_path / "answers.json")
    again = evaluate(tiny_llama, prompts, grades=[judged(replayed, "it is rude")], **how)
    assert again.table.equals(asked.table)
    assert len(server.asked) == n
    assert "judges" not in again.info


def test_pauses_end_when_everything_stops():
    ended = []

    def act(item, stop):
        if item == 0:
            time.sleep(0.05)
            raise ValueError("first")
        try:
            stop.pause(60)
        except Stopped:
            ended.append(item)
            raise

    with pytest.raises(ValueError, match="first"):
        list(at_once(act, [0, 1, 2], 3))
    end = time.monotonic() + 5
    while len(ended) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert sorted(ended) == [1, 2]
