"""The bytes of responses: heads, documents, and server-sent events in every framing a client must survive.

Belongs here: JSON of an event, SSE lines, HTTP chunks, where they are cut. Does not belong here: how many
events an answer has and when they go out (``answers``).

Every token is one word of five characters, so that a split of tokens by characters is exact.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from loadgen.truth.options import Behaviour

ASCII = (
    *("time ", "year ", "hand ", "part ", "case ", "week "),
    *("work ", "fact ", "area ", "book ", "word ", "side "),
)
# Two- to four-byte characters, and the three that look like line ends to a client that splits decoded text.
UNICODE = (
    *("tïme ", "yéår ", "手の平で ", "pärt ", "😀😁😂🤣 ", "w\u2028ek "),
    *("ω\u2029ρκ ", "f\u0085ct ", "área ", "книг ", "слов ", "側面の方 "),
)
ID = "chatcmpl-truth"
END = b"0\r\n\r\n"


class Parts(NamedTuple):
    """An event as it is written: the writes, and which of them brings the last byte of its data."""

    writes: tuple[bytes, ...]
    whole_at: int


def head(behaviour: Behaviour, status: str, kind: str, length: int | None, close: bool = False) -> bytes:
    """A response head; *length* ``None`` means chunked."""
    connection = "close" if close or behaviour.connection == "close" else "keep-alive"
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    extra = "".join(f"{name}: {value}\r\n" for name, value in behaviour.headers)
    text = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{size}\r\nConnection: {connection}\r\n"
        f"{extra}x-accelbench-origin: simulated\r\n\r\n"
    )
    return text.encode("ascii")


def document(
    behaviour: Behaviour, status: str, content: Any, *, close: bool = False, extra: str = ""
) -> bytes:
    """A whole response with a JSON body (or text, given as ``str``); *extra* are whole header lines."""
    body = content.encode() if isinstance(content, str) else orjson.dumps(content)
    kind = "text/plain; version=0.0.4" if isinstance(content, str) else "application/json"
    start = head(behaviour, status, kind, len(body), close)
    return start[:-2] + extra.encode("ascii") + b"\r\n" + body


class Wire:
    """Makes the events of one server; the ones that recur are kept."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._framing, self._reasoning = behaviour.framing, behaviour.reasoning
        self._empty = behaviour.empty_token
        self._vocabulary = UNICODE if behaviour.text == "unicode" else ASCII
        self._kept = lru_cache(maxsize=16_384)(self._make_token)

    def words(self, count: int) -> list[str]:
        """The first *count* tokens of every answer; the empty one is ``""``."""
        found = list(self._vocabulary * (count // len(self._vocabulary) + 1))[:count]
        if self._empty is not None and self._empty < count:
            found[self._empty] = ""
        return found

    def message(self, chat: bool, count: int) -> dict[str, Any]:
        """What a whole answer of *count* tokens says, as the fields of its choice."""
        words, thought = self.words(count), self._thought(chat, 0, count)
        if not chat:
            return {"text": "".join(words)}
        fields = self._fields("".join(words[:thought])) if thought else {}
        return {"message": {"role": "assistant", **fields, "content": "".join(words[thought:])}}

    def usage(self, input_tokens: int, output_tokens: int, cached: int) -> bytes:
        """A usage object."""
        thought = b""
        if self._reasoning is not None:
            thought = b',"completion_tokens_details":{"reasoning_tokens":%d}' % min(
                self._reasoning.tokens, output_tokens
            )
        return (
            b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
            b'"prompt_tokens_details":{"cached_tokens":%d}%b}'
            % (input_tokens, output_tokens, input_tokens + output_tokens, cached, thought)
        )

    # ------------------------------------------------------------------ events

    def role(self, model: str, usage: bytes | None) -> Parts:
        """The chunk that says only who speaks."""
        return self._event(_chunk(True, model, {"role": "assistant", "content": ""}, None, usage))

    def tokens(self, chat: bool, model: str, first: int, count: int, usage: bytes | None) -> Parts:
        """*count* tokens from the *first* on, in one chunk."""
        empty = -1 if self._empty is None or not first <= self._empty < first + count else self._empty - first
        place = first % len(self._vocabulary)
        return self._kept(chat, model, place, count, usage, self._thought(chat, first, count), empty)

    def finish(self, chat: bool, model: str, reason: str, usage: bytes | None) -> Parts:
        """The chunk with nothing but the finish reason, and in the per-chunk style the usage."""
        return self._event(_chunk(chat, model, {}, reason, usage))

    def final_usage(self, chat: bool, model: str, usage: bytes) -> Parts:
        """The chunk without choices that carries the usage."""
        return self._event(_chunk(chat, model, None, None, usage))

    def error(self) -> Parts:
        """An error inside a stream that began with HTTP 200."""
        content = {"message": "injected error", "type": "server_error", "param": None, "code": 500}
        return self._event(orjson.dumps({"error": content}))

    def malformed(self) -> Parts:
        """An event whose JSON breaks off."""
        return self._cut(b'data: {"id":"' + ID.encode() + b'","choices":[{"index":0,"delta":{"cont\n\n')

    def done(self) -> Parts:
        """``[DONE]`` and the end of the body; without a blank line in that framing."""
        line_end = {"crlf": b"\r\n\r\n", "no-final-blank": b""}.get(self._framing, b"\n\n")
        return self._cut(b"data: [DONE]" + line_end, END)

    def _thought(self, chat: bool, first: int, count: int) -> int:
        """How many of the tokens from *first* on are reasoning."""
        if self._reasoning is None or not chat:
            return 0
        return max(0, min(count, self._reasoning.tokens - first))

    def _fields(self, text: str) -> dict[str, str]:
        """Reasoning *text* under the names it has here."""
        assert self._reasoning is not None
        name = self._reasoning.field
        return dict.fromkeys(("reasoning", "reasoning_content") if name == "both" else (name,), text)

    def _make_token(
        self, chat: bool, model: str, place: int, count: int, usage: bytes | None, thought: int, empty: int
    ) -> Parts:
        words = [self._vocabulary[(place + index) % len(self._vocabulary)] for index in range(count)]
        if empty >= 0:
            words[empty] = ""
        visible = "".join(words[thought:])
        if not chat:
            return self._event(_chunk(False, model, visible, None, usage))
        fields = self._fields("".join(words[:thought])) if thought else {}
        return self._event(
            _chunk(True, model, fields if thought == count else {**fields, "content": visible}, None, usage)
        )

    # ------------------------------------------------------------------ framing

    def _event(self, content: bytes) -> Parts:
        """One event with *content* (JSON) as its data, in the framing of this server."""
        if self._framing == "multiline":
            lines = orjson.dumps(orjson.loads(content), option=orjson.OPT_INDENT_2).split(b"\n")
            return self._cut(b"".join(b"data: %b\n" % line for line in lines) + b"\n")
        if self._framing == "comments":
            return self._cut(
                b": a comment, as proxies send to keep a connection\n\n"
                b":\nevent: message\nid: 1\nretry: 1000\ndata: %b\n: after the data\n\n" % content
            )
        return self._cut(b"data: %b%b" % (content, b"\r\n\r\n" if self._framing == "crlf" else b"\n\n"))

    def _cut(self, event: bytes, end: bytes = b"") -> Parts:
        """As one HTTP chunk, in the writes this framing makes of it."""
        chunk = b"%x\r\n%b\r\n%b" % (len(event), event, end)
        if self._framing == "bytewise":
            whole = chunk.index(event) + len(event.rstrip(b"\r\n")) - 1
            return Parts(tuple(chunk[at : at + 1] for at in range(len(chunk))), whole)
        if self._framing != "split":
            return Parts((chunk,), 0)
        many = next((at for at, byte in enumerate(chunk) if byte & 0xC0 == 0x80), len(chunk) // 2)
        place = len(event) % 3  # within a character, within the chunk's size line, before its last line feed
        at = (many, 1, len(chunk) - len(end) - 1)[place]
        return Parts((chunk[:at], chunk[at:]), 0 if place == 2 else 1)


def _chunk(chat: bool, model: str, delta: Any, finish: str | None, usage: bytes | None) -> bytes:
    """The JSON of a chunk; *delta* is the text for completions, ``None`` = no choices."""
    kind = "chat.completion.chunk" if chat else "text_completion"
    content = {"delta": delta} if chat else {"text": delta or ""}
    choices = [] if delta is None else [{"index": 0, **content, "logprobs": None, "finish_reason": finish}]
    found = orjson.dumps({"id": ID, "object": kind, "created": 1, "model": model, "choices": choices})
    return found if usage is None else found[:-1] + b',"usage":' + usage + b"}"
