"""Raw answers to token chunks, after the step and between clocks.

Belongs here: which chunks carry tokens, how many, whether the answer is whole, and the class of its
failure.
Does not belong here: sockets (``client``), durations and rows (``samples``).

Token rules: role-only, usage-only and finish-only chunks are not tokens. An empty ``content`` without
``role`` is one where per-chunk usage grew by at least 1. ``reasoning`` and ``reasoning_content`` are tokens
(once, if both say the same), tool-call deltas too. Tokens of a chunk: the growth of cumulative usage where
the server sends usage in every chunk; else the token ids or log probabilities it lists, where every chunk
does and their sum is the final usage; else 1 each where their number equals the final usage; else the final
usage split in proportion to characters (derived: source ``usage`` with chunks of more or less than 1); else,
without usage, 1 each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from loadgen.exchange import Exchange
from loadgen.http1 import Framer, FramingError
from loadgen.sse import events

_LENGTH_TOLERANCE = 0.01
_NEVER = 2**62  # longer than any event
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
    text: str = ""  # visible output; only where it was asked for

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


def decode(exchange: Exchange, *, text: bool = False) -> Answer:
    """Interpret everything that came back for *exchange*, with its visible *text* if wished; never raises on
    what a server sends. Stamps the clock's jumps have spoilt are repaired in *exchange* itself."""
    try:
        if exchange.clock is not None:
            exchange.clock.repair(exchange)
        return _decode(exchange, text)
    except Exception as error:  # one answer must not cost the step all others: its row says malformed
        answer = Answer(http_status=exchange.http_status or None)
        if exchange.failure is not None:
            answer.fail(exchange.failure.status, exchange.failure.error_class, exchange.failure.text)
        answer.fail("error", "malformed", f"malformed answer: {type(error).__name__}: {error}")
        return answer


def _decode(exchange: Exchange, text: bool) -> Answer:
    answer = Answer()
    parts: list[str] | None = [] if text else None
    if exchange.failure is not None:
        answer.fail(exchange.failure.status, exchange.failure.error_class, exchange.failure.text)
    framer = Framer(collect=True)
    try:
        for data in exchange.reads:
            framer.feed(data)
        if exchange.failure is None:
            framer.eof()
    except FramingError as error:
        answer.fail("error", "malformed", str(error))
    answer.http_status = framer.status or None
    answer.headers = framer.headers
    if framer.status not in (0, 200):
        if answer.status != "timeout":
            answer.status = "ok"  # the status line says more than the way the connection ended
        body = b"".join(piece for _, piece in framer.body)[:2000].decode("utf-8", "replace")
        answer.fail("error", status_class(framer.status), f"HTTP {framer.status}: {_message(body)}")
    elif framer.body:
        if "text/event-stream" in framer.headers.get("content-type", "") or (
            exchange.stream and "application/json" not in framer.headers.get("content-type", "")
        ):
            _stream(answer, framer, parts)
        else:
            _single(answer, framer, parts)
    if parts:
        answer.text = "".join(parts)
    if answer.status == "ok":
        _check(answer, exchange)
    return answer


class _Chunks:
    """Token chunks of one stream while it is read; the lists run in parallel."""

    __slots__ = ("entries", "grown", "per_chunk", "sizes", "usage_before")

    def __init__(self) -> None:
        self.sizes: list[int] = []  # characters
        self.grown: list[int] = []  # growth of cumulative usage since the chunk before
        self.entries: list[int] = []  # token ids or log probabilities in the chunk
        self.per_chunk = False  # the server sends usage in chunks
        self.usage_before: int | None = None


def _stream(answer: Answer, framer: Framer, parts: list[str] | None) -> None:
    chunks = _Chunks()
    ended = False
    before = after = b""  # of the last plain content chunk: what precedes and follows its text
    around = _NEVER
    read_of, sizes, grown, entries = answer.chunk_reads, chunks.sizes, chunks.grown, chunks.entries
    for read, data in events(framer.body):
        if data.startswith(before) and data.endswith(after) and len(data) > around:
            inside = data[len(before) : -len(after)]
            if b'"' not in inside and b"\\" not in inside and inside.isascii():
                shown = inside.decode("ascii")
                if shown.isprintable():  # a plain JSON string, so nothing else differs from the chunk before
                    answer.done_read = read
                    read_of.append(read)
                    sizes.append(len(shown))
                    grown.append(0)
                    entries.append(0)
                    if parts is not None:
                        parts.append(shown)
                    continue
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
                text = _message(data.decode("utf-8", "replace"))
                answer.fail("error", "mid_stream", f"error event: {text}")
                continue
            if _event(answer, event, read, chunks, parts) and (found := _around(data, event)) is not None:
                before, after = found
                around = len(before) + len(after)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            answer.fail("error", "malformed", f"malformed event: {error}")
    _count(answer, chunks)
    if not ended and answer.finish_reason is None and answer.status == "ok":
        answer.fail("incomplete", "mid_stream", "the stream ended without [DONE] and without a finish reason")


def _event(
    answer: Answer, event: dict[str, Any], read: int, chunks: _Chunks, parts: list[str] | None
) -> bool:
    """Take one event; whether it is a chunk with visible text and nothing that another one may lack."""
    total = _usage(answer, event)
    choices = event.get("choices") or ()
    if not choices:
        return False
    size, visible, empty_token, entries = _chunk(answer, choices[0], parts)
    growth = 0 if total is None else total - (chunks.usage_before or 0)
    if total is not None:
        chunks.per_chunk = chunks.per_chunk or chunks.usage_before is not None or answer.finish_reason is None
        chunks.usage_before = total
    if size or (empty_token and ((growth >= 1 and chunks.per_chunk) or entries)):
        answer.chunk_reads.append(read)
        chunks.sizes.append(size)
        chunks.grown.append(growth)
        chunks.entries.append(entries)
        if visible and answer.first_output_read is None:
            answer.first_output_read = read
    elif growth and chunks.grown:
        chunks.grown[-1] += growth
    return visible and total is None and not entries


def _around(data: bytes, event: dict[str, Any]) -> tuple[bytes, bytes] | None:
    """The bytes of a content chunk before and after its text, if the next chunks can be told by them.

    It must hold the key ``content`` once, without any escape before it, as a plain string and as the only
    output; a chunk of the same bytes around another plain string then means the same with that string.
    """
    at = data.find(b'"content"') + 9
    at = data.find(b'"', at) + 1
    end = data.find(b'"', at)
    before, text = data[:at], data[at:end]
    choice = event["choices"][0]
    delta = choice.get("delta")
    if (
        data.count(b'"content"') != 1
        or before[before.rfind(b'"content"') + 9 : -1].strip() != b":"
        or b"\\" in before
        or not isinstance(delta, dict)
        or not set(delta) <= {"content", "role"}
        or delta["content"].encode() != text
        or choice.get("finish_reason")
        or event.get("usage")
    ):
        return None
    return before, data[end:]


def _chunk(answer: Answer, choice: dict[str, Any], parts: list[str] | None) -> tuple[int, bool, bool, int]:
    """Characters generated in a chunk, whether any is visible output, whether it could be an empty token, and
    how many tokens it lists by id or log probability."""
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
    if parts is not None and isinstance(content, str):
        parts.append(content)
    visible = len(content) + len(delta.get("refusal") or "") + calls
    empty_token = delta.get("content") == "" and "role" not in delta
    return visible + thought, visible > 0, empty_token, _entries(choice)


def _entries(choice: dict[str, Any]) -> int:
    """Tokens a chunk lists: ``token_ids``, or its entries of log probabilities."""
    found = choice.get("token_ids")
    if not isinstance(found, list):
        listed = choice.get("logprobs")
        found = (listed.get("content") or listed.get("tokens")) if isinstance(listed, dict) else None
    return len(found) if isinstance(found, list) else 0


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


def _count(answer: Answer, chunks: _Chunks) -> None:
    count, final = len(chunks.sizes), answer.output_tokens
    ones = [1] * count
    if chunks.per_chunk and count and min(chunks.grown) >= 1:
        found = chunks.grown, "per_chunk_usage"
    elif count and min(chunks.entries) >= 1 and final in (None, sum(chunks.entries)):
        found = chunks.entries, "token_ids"
    elif final is None:
        found = ones, "chunks"
    else:
        found = ones if final == count else split_tokens(final, chunks.sizes), "usage"
    answer.chunk_tokens = found[0]
    answer.token_count_source = found[1] if count or final is not None else None


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


def _single(answer: Answer, framer: Framer, parts: list[str] | None) -> None:
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
        size, visible, _, _ = _chunk(
            answer, {**choice, "delta": message} if message is not None else choice, parts
        )
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
