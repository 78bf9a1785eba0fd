"""Whether the server still answers rightly: a fixed set of short greedy prompts after the last step (rule M17).

Belongs here: the set (``canary.txt``: prompt, tab, words of which the answer must hold one), sending it, its score.
Does not belong here: comparing with another run's answers (the reader of ``shard.json``).

The score is a coarse check that kernels and quantisation left a working model, not a measure of quality; what tells
two builds of one model apart is the hash of each answer. The set's name changes when any of its lines does.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.client import Client
from loadgen.control import Control
from loadgen.decode import Answer, decode
from loadgen.exchange import Exchange, Request
from loadgen.plan import Plan
from loadgen.prompts import BodyTemplate, body_fields

MAX_TOKENS = 16
_AT_ONCE = 8
_POLL_S = 0.05
_FILE = Path(__file__).with_name("canary.txt")
_WORDS = re.compile(r"[\w-]+")


@dataclass(slots=True)
class Canary:
    """The answers in order of the prompts; ``stopped`` says why not all were asked."""

    set_name: str
    answers: list[tuple[Exchange, Answer]]
    expected: list[frozenset[str]]
    stopped: str | None = None

    def record(self) -> dict[str, Any] | None:
        """For ``shard.json``; ``None`` when it was stopped. An answer that failed has no hash and is wrong."""
        if self.stopped is not None:
            return None
        right = [holds(answer, words) for (_, answer), words in zip(self.answers, self.expected, strict=True)]
        return {
            "set": self.set_name,
            "n": len(right),
            "score": sum(right) / len(right),
            "answer_hashes": [
                hashlib.blake2b(answer.text.encode("utf-8", "replace"), digest_size=8).hexdigest()
                if answer.text
                else None
                for _, answer in self.answers
            ],
        }


def holds(answer: Answer, words: frozenset[str]) -> bool:
    """Whether an answer that came whole has one of *words* as a word of its own, in any case."""
    return answer.status == "ok" and not words.isdisjoint(_WORDS.findall(answer.text.lower()))


def prompts() -> tuple[str, list[tuple[str, frozenset[str]]]]:
    """The set's name, and its prompts with the words expected of each."""
    data = _FILE.read_bytes()
    lines = [line.split("\t") for line in data.decode("utf-8").splitlines()]
    name = f"facts-{len(lines)}-{hashlib.sha256(data).hexdigest()[:8]}"
    return name, [(prompt, frozenset(words.split("|"))) for prompt, words in lines]


def ask(plan: Plan, client: Client, control: Control) -> Canary:
    """Put the whole set to the server, at most eight at a time; ends early when *control* says so."""
    name, asked = prompts()
    model = plan.models[0] if plan.models else plan.model
    fields = body_fields(plan.api, model, max_tokens=MAX_TOKENS, ignore_eos=False, stream=plan.stream)
    template = BodyTemplate.of(fields)
    exchanges: list[Exchange] = []
    stopped: str | None = None
    finished = 0
    while finished < len(asked):
        while len(exchanges) < len(asked) and len(client.in_flight) < _AT_ONCE:
            seq = len(exchanges)
            prompt = json.dumps(asked[seq][0])[1:-1].encode()
            ident = f"{plan.run_id}-{plan.shard}-canary-{seq}"
            request = Request(seq, ident, template.fill(prompt), prompt, None, None)
            replica = plan.replicas[seq % len(plan.replicas)]
            exchanges.append(Exchange(request, replica, plan.stream, phase="canary"))
            client.submit(exchanges[-1])
        client.poll(_POLL_S)
        client.sweep(time.perf_counter_ns())
        if (stopped := control.stop_reason()) is not None:
            client.cut(f"cut: {stopped}")
        finished += len(client.done)
        client.done.clear()
        if stopped is not None:
            break
    client.close_idle()
    answers = [(exchange, decode(exchange, text=True)) for exchange in exchanges]
    return Canary(name, answers, [words for _, words in asked], stopped)
