"""Calibration against made servers: template and words, natural text, fixed lengths, an answer's life."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from loadgen import workloads
from loadgen.calibrate import CalibrationResult, calibrate
from loadgen.control import Control, RunError
from loadgen.exchange import Exchange
from loadgen.prompts import words
from loadgen.source import StepSource

from .conftest import make_plan

LISTED = set(words())


class Server:
    """Answers at once, as a client would have received it: a word of our list is one token, any other word
    *natural* ones; the template takes *template*."""

    def __init__(
        self, natural: float = 1.4, template: int = 17, length: Callable[[dict[str, Any]], int] | None = None
    ) -> None:
        self.natural, self.template = natural, template
        self.length = length or (lambda body: int(body["max_tokens"]))
        self.counts_tokens, self.status, self.finish = True, 200, "length"
        self.done: list[Exchange] = []
        self.bodies: list[dict[str, Any]] = []

    def tokens(self, text: str) -> int:
        listed = [word in LISTED for word in text.split()]
        return self.template + round(sum(listed) + self.natural * (len(listed) - sum(listed)))

    def submit(self, exchange: Exchange) -> None:
        body = json.loads(exchange.request.body)
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"]
        answer: dict[str, Any] = {
            "choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": self.finish}]
        }
        if self.counts_tokens:
            answer["usage"] = {"prompt_tokens": self.tokens(prompt), "completion_tokens": self.length(body)}
        data = json.dumps(answer).encode()
        head = f"HTTP/1.1 {self.status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        exchange.reads.append(head.encode() + data)
        exchange.stamps.append(2_000_000_000)
        exchange.sent_ns, exchange.end_ns, exchange.http_status = 1_000_000_000, 2_000_000_000, self.status
        self.done.append(exchange)

    def poll(self, timeout_s: float = 0.0) -> None:
        pass

    def sweep(self, now_ns: int) -> None:
        pass


def ask(name: str, server: Server, **changes: Any) -> tuple[CalibrationResult, StepSource]:
    document = {**workloads.load(name).document, "requires": [], **changes}
    workload = workloads.from_document(document)
    plan = make_plan("http://127.0.0.1:1", workload, stream=False)
    found = calibrate(plan, workload, server, Control(60.0, 10**18))  # type: ignore[arg-type]
    return found, StepSource(plan, workload, plan.steps[0], found)


def test_random_words_come_out_exact() -> None:
    server = Server()
    found, source = ask("fixed.1k1k@1", server)
    assert found.calibration is not None
    assert (found.calibration.tokens_per_word, found.calibration.template_tokens) == (1.0, 17.0)
    assert found.calibration.input_tokens == 1024
    assert {server.tokens(source.request(k).prompt.decode()) for k in range(50)} == {1024}
    assert found.warning is None


@pytest.mark.parametrize("name", ["shared.sys2k@1", "rag.6k@1", "json.schema@1", "long.32k@1"])
def test_natural_text_comes_out_as_long_as_was_asked(name: str) -> None:
    """M19: every passage has its share of long words, so single prompts differ, and their mean does not."""
    server = Server()
    found, source = ask(name, server)
    assert found.sizing.natural == pytest.approx(1.3, abs=0.15)
    requests = [source.request(k) for k in range(60)]
    got = [server.tokens(request.prompt.decode()) for request in requests]
    asked = [request.input_tokens or 0 for request in requests]
    assert sum(got) / sum(asked) == pytest.approx(1, abs=0.02 if name == "json.schema@1" else 0.01)


def test_the_checking_request_corrects_the_rest() -> None:
    class Rounding(Server):
        def tokens(self, text: str) -> int:
            n = len(text.split())
            return n + (9 if n > 500 else 4)  # a step that two short prompts cannot show

    server = Rounding()
    found, source = ask("fixed.1k1k@1", server)
    assert found.calibration is not None
    assert found.calibration.input_tokens == 1029
    assert server.tokens(source.request(0).prompt.decode()) == 1024


def test_a_server_that_counts_nothing_is_told() -> None:
    server = Server()
    server.counts_tokens = False
    found, source = ask("smoke.chat@1", server)
    assert found.calibration is None
    assert found.record() is None
    assert "no prompt_tokens" in str(found.warning)
    assert len(source.request(0).prompt.split()) == 256


def test_a_constant_count_is_no_count() -> None:
    class Constant(Server):
        def tokens(self, text: str) -> int:
            return 5

    assert "did not grow" in str(ask("smoke.chat@1", Constant())[0].warning)


def test_a_template_longer_than_the_prompt_is_told() -> None:
    found, _ = ask("oha.c6@1", Server(template=90))
    assert "the chat template takes 90 tokens: inputs will be longer than 64" in str(found.warning)


def stops_early(body: dict[str, Any]) -> int:
    return min(3, int(body["max_tokens"]))


def honours(body: dict[str, Any]) -> int:
    return int(body["max_tokens"]) if body.get("ignore_eos") else stops_early(body)


@pytest.mark.parametrize(
    ("length", "found"),
    [(stops_early, "false"), (honours, "true"), (lambda body: body["max_tokens"], "unknown")],
)
def test_support_of_fixed_lengths_is_probed(length: Callable[[dict[str, Any]], int], found: str) -> None:
    """M15: a question with a short natural answer, asked again for twice as much."""
    server = Server(length=length)
    result, _ = ask("fixed.1k1k@1", server)
    assert result.supports_ignore_eos == found
    record = result.record()
    assert record is not None
    assert record["supports_ignore_eos"] == found
    assert ("with ignore_eos" in str(result.warning)) == (found == "false")
    forced = [body for body in server.bodies if body["max_tokens"] == 6]
    assert [(body["ignore_eos"], body["min_tokens"]) for body in forced] == [(True, 6)] * (found != "unknown")


def test_an_answer_that_stops_at_the_limit_was_natural() -> None:
    server = Server(length=lambda body: min(24, int(body["max_tokens"])))
    server.finish = "stop"
    assert ask("fixed.1k1k@1", server)[0].supports_ignore_eos == "false"


def test_natural_lengths_are_not_probed() -> None:
    result, _ = ask("spec.natural@1", Server())
    assert result.supports_ignore_eos is None
    assert len(result.answers) == 2
    assert [exchange.request.seq for exchange, _ in result.answers] == [0, 1]


def test_an_answers_life_is_measured_for_cancellations() -> None:
    result, source = ask("spec.natural@1", Server(), cancel={"share": 1, "expected_ms": 77})
    assert result.expected_life_ms == 1000.0
    assert max(source.request(k).cancel_after_ns or 0 for k in range(100)) == pytest.approx(1e9, rel=0.05)


def test_a_server_that_fails_at_first_is_named() -> None:
    server = Server()
    server.status = 404
    with pytest.raises(
        RunError, match=re.compile("http://127.0.0.1:1 did not answer a first one-token request")
    ):
        ask("smoke.chat@1", server)


def test_every_shard_asks_the_same() -> None:
    bodies = []
    for shard in (0, 1):
        server = Server()
        workload = workloads.load("smoke.chat@1")
        plan = make_plan("http://127.0.0.1:1", workload, stream=False, shard=shard, shards=2)
        calibrate(plan, workload, server, Control(60.0, 10**18))  # type: ignore[arg-type]
        bodies.append(server.bodies)
    assert bodies[0] == bodies[1]
