"""The canary set and what is made of the answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from loadgen import workloads
from loadgen.canary import MAX_TOKENS, holds, prompts
from loadgen.decode import Answer

from .conftest import Result, Truth, make_plan

QUICK = workloads.custom(concurrency=1, isl=32, osl=2, duration_s=0.2, warmup_s=0)


def test_the_set_is_large_enough_and_well_formed() -> None:
    name, asked = prompts()
    assert len(asked) == len({prompt for prompt, _ in asked}) == 64
    assert name.startswith("facts-64-")
    for prompt, words in asked:
        assert prompt.endswith(("one word.", "a number.", "one letter.")), prompt
        assert words
        assert all(word == word.lower().strip() != "" for word in words)


@pytest.mark.parametrize(
    ("text", "right"),
    [("Paris.", True), ("It is PARIS!", True), ("Parisian", False), ("", False), ("Rome", False)],
)
def test_an_answer_holds_the_word_or_not(text: str, right: bool) -> None:
    assert holds(Answer(text=text), frozenset({"paris"})) is right
    assert not holds(Answer(text=text, status="error"), frozenset({"paris"}))


class _Knower(BaseHTTPRequestHandler):
    """An engine that knows every answer but the last; counts what is asked of it at once."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[dict[str, Any]]] = []
    busy = most = 0
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = {prompt: sorted(words)[0] for prompt, words in prompts()[1][:-1]}
        with self.lock:
            type(self).busy += 1
            type(self).most = max(self.most, self.busy)
        question = body["messages"][0]["content"]
        if question in known or question == prompts()[1][-1][0]:
            self.asked.append(body)
        text = known.get(question, "maybe")
        usage = {"prompt_tokens": len(question.split()), "completion_tokens": 1}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        data = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        with self.lock:
            type(self).busy -= 1
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def knower() -> Iterator[str]:
    _Knower.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Knower)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_right_answers_score_and_each_has_its_hash(knower: str, run: Callable[..., Result]) -> None:
    free = workloads.custom(concurrency=1, isl=32, osl=2, duration_s=0.2, warmup_s=0, ignore_eos=False)
    result = run(make_plan(knower, free, canary=True, stream=False))
    assert result.code == 0, result.error
    canary = result.shard["canary"]
    assert canary["n"] == len(canary["answer_hashes"]) == len(_Knower.asked) == 64
    assert canary["score"] == 63 / 64
    assert all(body["temperature"] == 0 and body["max_tokens"] == MAX_TOKENS for body in _Knower.asked)
    assert not any("ignore_eos" in body for body in _Knower.asked)
    assert _Knower.most <= 8
    rows = [row for row in result.rows if row["phase"] == "canary"]
    assert len(rows) == 64
    by_seq = {row["seq"]: row["answer_hash"] for row in rows}
    assert [by_seq[seq] for seq in range(64)] == canary["answer_hashes"], "the rows carry the same hashes"


def test_wrong_answers_do_not_score_and_stay_out_of_the_steps(
    truth: Callable[..., Truth], run: Callable[..., Result]
) -> None:
    server = truth("--ttft-ms", "5", "--gap-ms", "1")
    result = run(make_plan(server.url, QUICK, canary=True))
    assert result.code == 0, result.error
    assert result.shard["canary"]["score"] == 0.0
    rows = [row for row in result.rows if row["phase"] == "canary"]
    assert {row["step_index"] for row in rows} == {-1}
    assert {row["status"] for row in rows} == {"ok"}
    begun = max(row["scheduled_at"] for row in result.measured())
    assert min(row["scheduled_at"] for row in rows) > begun, "after the last step"


def test_no_canary_unless_asked(truth: Callable[..., Truth], run: Callable[..., Result]) -> None:
    result = run(make_plan(truth("--ttft-ms", "5", "--gap-ms", "1").url, QUICK))
    assert result.shard["canary"] is None
    assert {row["phase"] for row in result.rows} <= {"calibration", "warmup", "measure", "tail"}
