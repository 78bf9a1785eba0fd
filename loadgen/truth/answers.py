"""The ground-truth server's answers: what is written in which order, when, and the tokens in each write.

Belongs here: chunk layouts, usage styles, buffering, what a fault does to an answer. Does not belong here: the
bytes of one event (``wire``), sockets and clocks (``loop``).

What recurs is made once and kept, so that a request costs a few look-ups however long its answer is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import orjson

from loadgen.truth.asking import Asked, refusal
from loadgen.truth.options import CUT_FRAMINGS, Behaviour
from loadgen.truth.wire import ID, Parts, Wire, document, head

_MS = 1_000_000
_AT_ONCE = -1
_REST_LATER_MS = 0.5
RETRY_AFTER_S = 1


class Write(NamedTuple):
    """Bytes for one ``send``, and the *tokens* that are whole with it. It is due *extra_ms* after *after*
    gaps since the first token (``_AT_ONCE``: after service began)."""

    data: bytes
    tokens: int
    after: int
    extra_ms: float = 0.0


class Timing:
    """When the writes of an answer are due; shared by all answers of one shape."""

    __slots__ = ("_content_ms", "_kept", "_moments", "_thought", "gaps")

    def __init__(self, writes: Iterable[Write], behaviour: Behaviour) -> None:
        self._moments = tuple((write.after, write.extra_ms) for write in writes)
        self.gaps = max(0, *(after for after, _ in self._moments))
        reasoning = behaviour.reasoning
        thinks = reasoning is not None and reasoning.content_ms is not None
        self._thought = reasoning.tokens if thinks and reasoning is not None else 1 << 62
        self._content_ms = reasoning.content_ms or 0.0 if reasoning is not None else 0.0
        self._kept: tuple[tuple[float, float], list[int]] | None = None

    def offsets(self, ttft_ms: float, gap_ms: float) -> list[int]:
        """ns after service began, one a write; not to be changed by the caller."""
        if self._kept is None or self._kept[0] != (ttft_ms, gap_ms):
            content_ms = max(self._content_ms, ttft_ms + gap_ms * self._thought)
            found = []
            for after, extra_ms in self._moments:
                at = extra_ms
                if after >= self._thought:
                    at += content_ms + gap_ms * (after - self._thought)
                elif after != _AT_ONCE:
                    at += ttft_ms + gap_ms * after
                found.append(int(at * _MS))
            self._kept = ((ttft_ms, gap_ms), found)
        return self._kept[1]


@dataclass(frozen=True, slots=True)
class Answer:
    """``data[k]`` is the k-th write and ``tokens[k]`` how many tokens it brings; ``generated[k]`` are the
    tokens sent once k writes were. ``ending`` is what follows the last write: ``done``, ``reset`` of the
    connection, or ``stall`` (nothing, ever). ``first_event`` is the write that makes the first event whole."""

    data: tuple[bytes, ...]
    tokens: tuple[int, ...]
    generated: tuple[int, ...]
    timing: Timing
    ending: str = "done"
    finish: str | None = None
    first_event: int = 0


class Answers:
    """All answers of one server."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.wire = Wire(behaviour)
        self._apart_ms = _REST_LATER_MS if behaviour.framing == "split" else 0.0
        self._run = lru_cache(maxsize=512)(self._make_run)
        self._end = lru_cache(maxsize=4096)(self._make_end)
        self._shape = lru_cache(maxsize=512)(self._make_shape)
        self._head = lru_cache(maxsize=4)(
            lambda close: head(behaviour, "200 OK", "text/event-stream", None, close)
        )
        self._single = lru_cache(maxsize=512)(lambda after: Timing([Write(b"", 0, after)], behaviour))

    def answer(self, asked: Asked, natural: int, fault: str | None, cached: int, close: bool) -> Answer:
        """The whole answer to one request; *cached* of its input tokens are reported as cached, *close*
        announces the end of the connection."""
        if fault == "hang":
            return Answer((), (), (0,), self._single(_AT_ONCE), "stall")
        if fault in ("429", "500"):
            status, content = refusal(int(fault), "injected failure")
            extra = f"Retry-After: {RETRY_AFTER_S}\r\n" if fault == "429" else ""
            data = document(self._behaviour, status, content, close=close, extra=extra)
            return Answer((data,), (0,), (0, 0), self._single(_AT_ONCE))
        tokens = asked.length(natural)
        if fault == "short":
            tokens = max(1, tokens // 2)
        finish = "length" if tokens == asked.limit else "stop"
        if not asked.stream:
            return self._whole(asked, tokens, finish, fault, cached, close)
        style = self._behaviour.usage.kind
        told = asked.usage != "none" and style != "never"
        every = told and "every" in (style, asked.usage)
        counts = (asked.input_tokens, cached)
        key = (asked.chat, asked.model, tokens, fault, counts if every else None)
        run = self._run(*key)
        writes = (self._head(close) + run.data[0], *run.data[1:])
        if fault in ("reset", "stall"):
            return Answer(writes, *self._shape(*key, ()), fault, None, run.first_event)
        usage = self.wire.usage(asked.input_tokens, tokens, cached) if told else None
        end = self._end(asked.chat, asked.model, finish, usage, every, fault == "error_event")
        return Answer(writes + end.data, *self._shape(*key, end.extras_ms), "done", finish, run.first_event)

    def _whole(
        self, asked: Asked, tokens: int, finish: str, fault: str | None, cached: int, close: bool
    ) -> Answer:
        """An answer that is not streamed: one document when the last token is there."""
        timing = self._single(tokens - 1)
        if fault in ("reset", "stall"):
            return Answer((b"",), (0,), (0, 0), timing, fault)
        content: dict[str, Any]
        if fault == "error_event":
            content = refusal(500, "injected error")[1]
        else:
            choice = {"index": 0, **self.wire.message(asked.chat, tokens), "finish_reason": finish}
            kind = "chat.completion" if asked.chat else "text_completion"
            content = {"id": ID, "object": kind, "created": 1, "model": asked.model, "choices": [choice]}
            if self._behaviour.usage.kind != "never":
                content["usage"] = orjson.loads(self.wire.usage(asked.input_tokens, tokens, cached))
        body = orjson.dumps(content)
        if fault == "malformed":
            body = body[: len(body) // 2]
        good = 0 if fault in ("error_event", "malformed") else tokens
        start = head(self._behaviour, "200 OK", "application/json", len(body), close)
        return Answer((start + body,), (good,), (0, good), timing, finish=finish)

    # ------------------------------------------------------------------ streams

    def _make_run(
        self, chat: bool, model: str, tokens: int, fault: str | None, every: tuple[int, int] | None
    ) -> _Run:
        """Everything up to the last token; the first write is what goes out with the head."""
        behaviour, wire, layout = self._behaviour, self.wire, self._behaviour.chunk_layout
        usage = None if every is None else wire.usage(every[0], 0, every[1])
        role = wire.role(model, usage) if chat and layout.kind != "plain" else None
        writes: list[Write] = []
        if role is None or layout.kind != "role-first":
            writes.append(Write(b"", 0, _AT_ONCE))
        if role is not None:
            moment = (0, 0.0) if layout.kind == "role-with-token" else (_AT_ONCE, layout.role_ms)
            writes += self._writes(role, 0, *moment)
            first_event = len(writes) - len(role.writes) + role.whole_at
        stop_at = tokens // 2 if fault in ("reset", "stall", "error_event") else tokens
        held: list[Write] = []
        for done in range(0, stop_at, behaviour.tokens_per_chunk):
            count = min(behaviour.tokens_per_chunk, stop_at - done)
            if every is not None:
                usage = wire.usage(every[0], done + count, every[1])
            extra_ms = 0.0
            if fault == "malformed" and done <= tokens // 2 < done + count:
                held += self._writes(wire.malformed(), 0, done)
                extra_ms += 2 * self._apart_ms
            elif done == 0 and layout.kind == "role-with-token":
                extra_ms += 2 * self._apart_ms
            held += self._writes(wire.tokens(chat, model, done, count, usage), count, done, extra_ms)
            if behaviour.events_per_write == 1:
                writes += held
            elif done == 0 or len(held) >= behaviour.events_per_write or done + count == stop_at:
                data, carried = b"".join(one.data for one in held), sum(one.tokens for one in held)
                writes.append(Write(data, carried, done))
            else:
                continue
            held = []
        if fault == "reset":
            writes.append(Write(b"", 0, stop_at))
        if role is None:
            first_event = next((index for index, write in enumerate(writes) if write.tokens), 0)
        return _Run(tuple(writes), tuple(write.data for write in writes), first_event)

    def _writes(self, event: Parts, tokens: int, after: int, extra_ms: float = 0.0) -> list[Write]:
        """An event's writes; of one that is split, the rest comes a little later, in a read of its own."""
        return [
            Write(data, tokens if index == event.whole_at else 0, after, extra_ms + self._apart_ms * index)
            for index, data in enumerate(event.writes)
        ]

    def _make_end(
        self, chat: bool, model: str, finish: str, usage: bytes | None, every: bool, failed: bool
    ) -> _End:
        """What follows the last token: its finish reason or an error, the usage, the end of the stream."""
        wire, late_ms = self.wire, self._behaviour.usage.late_ms
        first = wire.error() if failed else wire.finish(chat, model, finish, usage if every else None)
        events = [(first, 0.0), (wire.done(), late_ms)]
        if usage is not None and not failed:
            events.insert(1, (wire.final_usage(chat, model, usage), late_ms))
        found: list[Write] = []
        at_ms = 2 * self._apart_ms  # after the rest of the last token
        for event, extra_ms in events:
            found += self._writes(event, 0, 0, max(at_ms, extra_ms))
            at_ms = found[-1].extra_ms + self._apart_ms
        if self._behaviour.framing in CUT_FRAMINGS:
            return _End(tuple(write.data for write in found), tuple(write.extra_ms for write in found))
        times = sorted({write.extra_ms for write in found})
        joined = (b"".join(write.data for write in found if write.extra_ms == at) for at in times)
        return _End(tuple(joined), tuple(times))

    def _make_shape(
        self,
        chat: bool,
        model: str,
        tokens: int,
        fault: str | None,
        every: tuple[int, int] | None,
        extras_ms: tuple[float, ...],
    ) -> tuple[tuple[int, ...], tuple[int, ...], Timing]:
        """``tokens``, ``generated`` and timing of a run with an end after it."""
        writes = self._run(chat, model, tokens, fault, every).writes
        last = max(0, writes[-1].after)
        writes = (*writes, *(Write(b"", 0, last, extra_ms) for extra_ms in extras_ms))
        counts = tuple(write.tokens for write in writes)
        return counts, tuple(accumulate(counts, initial=0)), Timing(writes, self._behaviour)


class _Run(NamedTuple):
    writes: tuple[Write, ...]
    data: tuple[bytes, ...]
    first_event: int


class _End(NamedTuple):
    data: tuple[bytes, ...]
    extras_ms: tuple[float, ...]
