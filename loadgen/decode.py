"""Raw answers to token chunks, after the step and between clocks.

Belongs here: which chunks carry tokens, how many, whether the answer is whole, and the class of its
failure.
Does not belong here: sockets (``client``), durations and rows (``samples``).

Token rules: role-only, usage-only and finish-only chunks are not tokens. An empty ``content`` without
``role`` is one where per-chunk usage grew by at least 1. ``reasoning`` and ``reasoning_content`` are tokens
(once, if both say the same), tool-call deltas too. Tokens of a chunk: the growth of cumulative usage where
the server sends usage in every chunk; else 1 each where their number equals the final usage; else the final
usage split in proportion to characters; else, without usage, 1 each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from loadgen.exchange import Exchange
from loadgen.http1 import Framer, FramingError
from loadgen.sse import events

_LENGTH_TOLERANCE = 0.01
_COUNT_LIMIT = 2**31  # of the samples' int32 columns


@dataclass(slots=True)
class Answer:
    """What an answer says. Stamps in monotonic ns; counts as the server gives them; ``None`` = it did not."""

    status: str = "ok"
    error_class: str | None = None
    error_text: str | None = None
    http_status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str | None = None
    chunk_reads: list[int] = field(default_factory=list)  # index of the read that brought each token chunk
    chunk_tokens: list[int] = field(default_factory=list)
    first_event_read: int | None = None
    first_output_read: int | None = None
    done_read: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    token_count_source: str | None = None

    def fail(self, status: str, error_class: str | None, text: str) -> None:
        """Note a failure; the first one stays."""
        if self.status == "ok":
            self.status, self.error_class, self.error_text = status, error_class, text


def status_class(http_status: int) -> str:
    """The error class of an HTTP status that is not 200."""
    if http_status == 429:
        return "429"
    if http_status >= 500:
        return "5xx"
    return "4xx" if http_status >= 400 else "malformed"


def decode(exchange: Exchange) -> Answer:
    """Interpret everything that came back for *exchange*; never raises on what a server sends."""
    try:
        return _decode(exchange)
    except Exception as error:  # one answer must not cost the step all others: its row says malformed
        answer = Answer(http_status=exchange.http_status or None)
        if exchange.failure is not None:
            answer.fail(exchange.failure.status, exchange.failure.error_class, exchange.failure.text)
        answer.fail("error", "malformed", f"malformed answer: {type(error).__name__}: {error}")
        return answer


def _decode(exchange: Exchange) -> Answer:
    answer = Answer()
    if exchange.failure is not None:
        answer.fail(exchange.failure.status, exchange.failure.error_class, exchange.failure.text)
    framer = Framer(collect=True)
    try:
        for data in exchange.reads:
            framer.feed(data)
    except FramingError as error:
        answer.fail("error", "malformed", str(error))
    answer.http_status = framer.status or None
    answer.headers = framer.headers
    if framer.status not in (0, 200):
        if answer.status != "timeout":
            answer.status = "ok"  # the status line says more than the way the connection ended
        text = b"".join(piece for _, piece in framer.body)[:2000].decode("utf-8", "replace")
        answer.fail("error", status_class(framer.status), f"HTTP {framer.status}: {_message(text)}")
    elif framer.body:
        if "text/event-stream" in framer.headers.get("content-type", "") or (
            exchange.stream and "application/json" not in framer.headers.get("content-type", "")
        ):
            _stream(answer, framer)
        else:
            _single(answer, framer)
    if answer.status == "ok":
        _check(answer, exchange)
    return answer


def _stream(answer: Answer, framer: Framer) -> None:
    sizes: list[int] = []  # characters of each token chunk
    grown: list[int] = []  # growth of cumulative usage since the chunk before
    per_chunk = False
    usage_before: int | None = None
    ended = False
    for read, data in events(framer.body):
        if answer.first_event_read is None:
            answer.first_event_read = read
        answer.done_read = read
        if data.strip() == b"[DONE]":
            ended = True
            break
        try:
            event = orjson.loads(data)
            if not isinstance(event, dict):
                raise ValueError("an event is not a JSON object")
            if event.get("error"):
                answer.fail(
                    "error", "mid_stream", f"error event: {_message(data.decode('utf-8', 'replace'))}"
                )
                continue
            total = _usage(answer, event)
            choices = event.get("choices") or ()
            if not choices:
                continue
            size, visible, empty_token = _chunk(answer, choices[0])
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            answer.fail("error", "malformed", f"malformed event: {error}")
            continue
        growth = 0 if total is None else total - (usage_before or 0)
        if total is not None:
            per_chunk = per_chunk or usage_before is not None or answer.finish_reason is None
            usage_before = total
        if size or (empty_token and growth >= 1 and per_chunk):
            answer.chunk_reads.append(read)
            sizes.append(size)
            grown.append(growth)
            if visible and answer.first_output_read is None:
                answer.first_output_read = read
        elif growth and grown:
            grown[-1] += growth
    _count(answer, sizes, grown if per_chunk else None)
    if not ended and answer.finish_reason is None and answer.status == "ok":
        answer.fail("incomplete", "mid_stream", "the stream ended without [DONE] and without a finish reason")


def _chunk(answer: Answer, choice: dict[str, Any]) -> tuple[int, bool, bool]:
    """Characters generated in a chunk, whether any is visible output, and whether it could be an empty
    token."""
    delta = choice.get("delta")
    if delta is None:  # completions
        delta = {"content": choice.get("text")}
    content = delta.get("content") or ""
    first, second = delta.get("reasoning_content") or "", delta.get("reasoning") or ""
    thought = len(first) + (len(second) if second != first else 0)
    calls = 0
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        calls += len(function.get("name") or "") + len(function.get("arguments") or "") or 1
    reason = choice.get("finish_reason")
    answer.finish_reason = reason if isinstance(reason, str) and reason else answer.finish_reason
    visible = len(content) + len(delta.get("refusal") or "") + calls
    return visible + thought, visible > 0, delta.get("content") == "" and "role" not in delta


def _usage(answer: Answer, event: dict[str, Any]) -> int | None:
    """Take the token counts of an event; return cumulative completion tokens if it has them."""
    usage = event.get("usage")
    if not usage:
        return None
    answer.input_tokens = _whole(usage.get("prompt_tokens", answer.input_tokens))
    answer.output_tokens = _whole(usage.get("completion_tokens", answer.output_tokens))
    details = usage.get("prompt_tokens_details") or {}
    answer.cached_input_tokens = _whole(details.get("cached_tokens", answer.cached_input_tokens))
    details = usage.get("completion_tokens_details") or {}
    answer.reasoning_tokens = _whole(details.get("reasoning_tokens", answer.reasoning_tokens))
    return _whole(usage.get("completion_tokens"))


def _whole(value: object) -> int | None:
    """*value* if it can be a token count, ``None`` for anything else a server may write there."""
    if type(value) is int:  # not bool
        return value if 0 <= value < _COUNT_LIMIT else None
    if isinstance(value, float) and value.is_integer() and 0 <= value < _COUNT_LIMIT:
        return int(value)
    return None


def _count(answer: Answer, sizes: list[int], grown: list[int] | None) -> None:
    chunks = len(sizes)
    if grown is not None and chunks and all(growth >= 1 for growth in grown):
        answer.chunk_tokens, answer.token_count_source = grown, "per_chunk_usage"
    elif answer.output_tokens is None:
        answer.chunk_tokens = [1] * chunks
        answer.token_count_source = "chunks" if chunks else None
    elif answer.output_tokens == chunks:
        answer.chunk_tokens, answer.token_count_source = [1] * chunks, "usage"
    else:
        answer.chunk_tokens, answer.token_count_source = split_tokens(answer.output_tokens, sizes), "usage"


def split_tokens(tokens: int, sizes: list[int]) -> list[int]:
    """*tokens* over chunks in proportion to their characters, exact in sum; at least 1 each where there are
    enough."""
    floor = 1 if tokens >= len(sizes) else 0
    spare, total = tokens - floor * len(sizes), sum(max(0, size) for size in sizes)
    result: list[int] = []
    seen = given = 0
    for size in sizes:
        seen += size
        share = spare * seen // total - given if total else 0
        given += share
        result.append(floor + share)
    if result:
        result[-1] += spare - given
    return result


def _single(answer: Answer, framer: Framer) -> None:
    """One JSON document: all tokens arrive with its last byte."""
    read = framer.body[-1][0]
    answer.first_event_read, answer.done_read = framer.body[0][0], read
    if not framer.done:
        return
    data = b"".join(piece for _, piece in framer.body)
    try:
        document = orjson.loads(data)
        if document.get("error"):
            return answer.fail(
                "error", "mid_stream", f"error in an HTTP 200: {_message(data.decode('utf-8', 'replace'))}"
            )
        _usage(answer, document)
        choice = document["choices"][0]
        message = choice.get("message")
        size, visible, _ = _chunk(answer, {**choice, "delta": message} if message is not None else choice)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        return answer.fail("error", "malformed", f"malformed answer: {error}")
    if size or answer.output_tokens:
        answer.chunk_reads = [read]
        answer.first_output_read = read if visible else None
        answer.chunk_tokens = [answer.output_tokens or 1]
        answer.token_count_source = "usage" if answer.output_tokens else "chunks"
    return None


def _check(answer: Answer, exchange: Exchange) -> None:
    """What a complete answer must hold."""
    if not answer.chunk_reads:
        return answer.fail("error", "empty", "the answer holds no token")
    wanted, got = exchange.request.output_tokens, answer.output_tokens
    if wanted is not None and got is not None and abs(got / wanted - 1) > _LENGTH_TOLERANCE:
        text = f"{got} tokens came of {wanted} asked for; the server may not honour ignore_eos"
        answer.fail("incomplete", "wrong_length", text)
    return None


def _message(text: str) -> str:
    """The message inside an error document, or the text itself, on one line."""
    try:
        document: Any = orjson.loads(text)
        inner = document.get("error", document) if isinstance(document, dict) else document
        found = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else inner
        text = str(found if found is not None else text)
    except ValueError:
        pass
    return " ".join(text.split())
