"""The bytes of the ground-truth server's answers, and when each is due.

Belongs here: HTTP heads and bodies, chunk layouts, usage styles, what a fault does to an answer.
Does not belong here: sockets and clocks (``server``), options (``options``).

Every token is one word of five characters, so that a split of tokens by characters is exact.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from loadgen.truth.options import Behaviour

_WORDS = (
    "time ",
    "year ",
    "hand ",
    "part ",
    "case ",
    "week ",
    "work ",
    "fact ",
    "area ",
    "book ",
    "word ",
    "side ",
)
TEMPLATE_TOKENS = 4
_ID = "truth-0"


@dataclass(frozen=True, slots=True)
class Piece:
    """Something to send ``after_ms`` since service began. ``reset`` ends the connection the hard way
    instead."""

    after_ms: float
    data: bytes
    tokens: int = 0
    reset: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    chat: bool
    stream: bool
    tokens: int
    input_tokens: int
    usage: bool


class BadRequest(ValueError):
    """The request is answered with HTTP 400; the text says why."""


def read_request(path: str, body: bytes, behaviour: Behaviour) -> Asked:
    """Interpret a completion request; raises :class:`BadRequest`."""
    chat = path.endswith("/chat/completions")
    try:
        document = json.loads(body)
        if chat:
            text = " ".join(str(message["content"]) for message in document["messages"])
        else:
            text = str(document["prompt"])
        limit = document.get("max_completion_tokens", document.get("max_tokens"))
        limit = None if limit is None else int(limit)
        fixed = bool(document.get("ignore_eos"))
        options = document.get("stream_options") or {}
        stream, usage = bool(document.get("stream")), bool(options.get("include_usage"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRequest(f"{type(error).__name__}: {error}") from None
    if limit is not None and limit < 1:
        raise BadRequest("max_tokens must be at least 1")
    natural = behaviour.tokens if limit is None else min(limit, behaviour.tokens)
    tokens = limit if fixed and limit is not None else natural
    return Asked(chat, stream, tokens, len(text.split()) + TEMPLATE_TOKENS, usage)


def head(behaviour: Behaviour, status: str, kind: str, length: int | None) -> bytes:
    """A response head; *length* ``None`` means chunked."""
    connection = "close" if behaviour.connection == "close" else "keep-alive"
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    text = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{size}\r\nConnection: {connection}\r\n"
        "x-accelbench-origin: simulated\r\n\r\n"
    )
    return text.encode()


def document(behaviour: Behaviour, status: str, content: Any) -> bytes:
    """A whole response with a JSON body (or text, given as ``str``)."""
    text = content if isinstance(content, str) else json.dumps(content)
    kind = "text/plain; version=0.0.4" if isinstance(content, str) else "application/json"
    return head(behaviour, status, kind, len(text.encode())) + text.encode()


def pieces(asked: Asked, behaviour: Behaviour, fault: str | None) -> list[Piece]:
    """The whole answer in order of time; empty for a request that hangs."""
    if fault == "hang":
        return []
    if fault == "500":
        error = {"error": {"message": "injected failure", "type": "server_error", "code": 500}}
        return [Piece(0.0, document(behaviour, "500 Internal Server Error", error), last=True)]
    if not asked.stream:
        return _whole(asked, behaviour, fault)
    result = [Piece(0.0, head(behaviour, "200 OK", "text/event-stream", None))]
    if asked.chat and behaviour.chunk_layout == "role-first":
        result.append(Piece(0.0, _event(_chunk(asked.chat, {"role": "assistant", "content": ""}, None))))
    size, done = behaviour.tokens_per_chunk, 0
    stop_at = asked.tokens // 2 if fault in ("reset", "error_event") else asked.tokens
    at = behaviour.ttft_ms
    while done < stop_at:
        count = min(size, stop_at - done)
        usage = (asked.input_tokens, done + count) if behaviour.usage == "every" and asked.usage else None
        result.append(Piece(at, _token_event(asked.chat, done, count, usage), tokens=count))
        done += count
        at += behaviour.gap_ms * size
    at = result[-1].after_ms
    if fault == "reset":
        return [*result, Piece(at + behaviour.gap_ms, b"", reset=True, last=True)]
    if fault == "error_event":
        tail = _event({"error": {"message": "injected error", "type": "server_error", "code": 500}})
    else:
        tail = _event(_chunk(asked.chat, {}, "length"))
        if behaviour.usage != "never" and asked.usage:
            tail += _event(
                {**_chunk(asked.chat, None, None), "usage": _usage(asked.input_tokens, asked.tokens)}
            )
    return [*result, Piece(at, tail + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n", last=True)]


def _whole(asked: Asked, behaviour: Behaviour, fault: str | None) -> list[Piece]:
    end = behaviour.ttft_ms + behaviour.gap_ms * (asked.tokens - 1)
    if fault == "reset":
        return [Piece(end, b"", reset=True, last=True)]
    if fault == "error_event":
        return [
            Piece(end, document(behaviour, "200 OK", {"error": {"message": "injected error"}}), last=True)
        ]
    text = "".join(_WORDS[index % len(_WORDS)] for index in range(asked.tokens))
    content: dict[str, Any] = (
        {"message": {"role": "assistant", "content": text}} if asked.chat else {"text": text}
    )
    answer: dict[str, Any] = {"id": _ID, "choices": [{"index": 0, **content, "finish_reason": "length"}]}
    if behaviour.usage != "never":
        answer["usage"] = _usage(asked.input_tokens, asked.tokens)
    return [Piece(end, document(behaviour, "200 OK", answer), tokens=asked.tokens, last=True)]


@cache
def _token_event(chat: bool, first: int, count: int, usage: tuple[int, int] | None) -> bytes:
    text = "".join(_WORDS[(first + index) % len(_WORDS)] for index in range(count))
    event = _chunk(chat, {"content": text} if chat else text, None)
    if usage is not None:
        event["usage"] = _usage(*usage)
    return _event(event)


def _chunk(chat: bool, delta: Any, finish: str | None) -> dict[str, Any]:
    if delta is None:
        choices: list[dict[str, Any]] = []
    elif chat:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    else:
        choices = [{"index": 0, "text": delta or "", "finish_reason": finish}]
    return {"id": _ID, "object": "chat.completion.chunk" if chat else "text_completion", "choices": choices}


def _usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _event(content: dict[str, Any]) -> bytes:
    return _framed(b"data: " + json.dumps(content).encode() + b"\n\n")


def _framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
