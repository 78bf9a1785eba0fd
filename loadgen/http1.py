"""HTTP/1.1 answers, framed incrementally: where a response ends, and which bytes of the stream are its
body.

Belongs here: status line, headers, chunked and Content-Length and until-close bodies, of one response at a
time.
Does not belong here: sockets and stamps (``transport``, ``client``), what a body means (``sse``,
``decode``).

The hot path feeds every read to a :class:`Framer` to learn when the answer is complete (about a microsecond
for a read); after the step ``decode`` feeds the same bytes to another one that also collects the body.
"""

from __future__ import annotations

_MAX_HEAD = 65_536
_HEX = b"0123456789abcdefABCDEF"
_SIZES_MAX = 4_096
WHOLE_CHUNKS: dict[bytes, int] = {}
"""Chunk-size line -> length of the whole chunk with it and its line ends, for sizes met before; never the
last chunk's."""


class FramingError(ValueError):
    """The bytes are not an HTTP/1.1 response; the text says why."""


class Framer:
    """Feed it reads in order; :attr:`done` tells when the response is complete.

    After the head: ``status``, ``headers`` (lower-case names, last value wins), ``keep_alive``. With
    *collect*, ``body`` lists ``(read_index, bytes)`` pairs in order. ``surplus`` counts bytes after the end
    of the response. While ``at_chunk``, a read whose size line :data:`WHOLE_CHUNKS` has with the read's length
    need not be fed, unless collecting: it changes nothing.
    """

    __slots__ = (
        "_carry",
        "_collect",
        "_left",
        "_mode",
        "_read",
        "at_chunk",
        "body",
        "done",
        "headers",
        "keep_alive",
        "status",
        "surplus",
    )

    def __init__(self, *, collect: bool = False) -> None:
        self._mode = "head"
        self._carry = b""  # unparsed bytes of the head, of a chunk-size line or of the trailers
        self._left = 0  # bytes to come of the body (length), or of the chunk and its line end (chunk)
        self._read = -1
        self._collect = collect
        self.at_chunk = False  # the next byte begins a chunk's size line
        self.body: list[tuple[int, bytes]] = []
        self.done = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.keep_alive = False
        self.surplus = 0

    def feed(self, data: bytes) -> bool:
        """Take one read; return :attr:`done`. Raises :class:`FramingError`."""
        self._read += 1
        if self.at_chunk:
            end = data.find(b"\r\n")
            if WHOLE_CHUNKS.get(data[:end]) == len(data):
                if self._collect:
                    self.body.append((self._read, data[end + 2 : -2]))
                return False
        if self.done:
            self.surplus += len(data)
            return True
        if self._mode == "head":
            data = self._carry + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > _MAX_HEAD or not b"HTTP/1.".startswith(data[:7]):
                    raise FramingError("the answer is not HTTP/1.1")
                self._carry = data
                return False
            self._carry = b""
            self._head(data[:end])
            data = data[end + 4 :]
            if self.done:
                self.surplus = len(data)
                return True
            if self._mode == "head":  # it was 100 Continue
                self._read -= 1
                return self.feed(data) if data else False
        if self._mode == "chunk":
            return self._chunks(data)
        if self._mode == "length":
            if self._collect and data:
                self.body.append((self._read, data[: self._left]))
            self._left -= len(data)
            if self._left <= 0:
                self.done = True
                self.surplus = -self._left
            return self.done
        if self._collect and data:
            self.body.append((self._read, data))
        return False

    def eof(self) -> bool:
        """The peer closed: whether the response is complete (a body that lasts until the close is, from now
        on)."""
        if self._mode == "close":
            self.done = True
        return self.done

    def _head(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ", 2)
        if (
            len(parts) < 2
            or not parts[0].startswith("HTTP/1.")
            or not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) == 3)
        ):
            raise FramingError("the answer is not HTTP/1.1")
        self.status = int(parts[1])
        if 100 <= self.status < 200:
            return
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise FramingError("a header line has no colon")
            self.headers[name.strip().lower()] = value.strip()
        connection = self.headers.get("connection", "").lower()
        self.keep_alive = "close" not in connection and (parts[0] != "HTTP/1.0" or "keep-alive" in connection)
        length = self.headers.get("content-length")
        if self.headers.get("transfer-encoding", "").lower().endswith("chunked"):
            self._mode = "chunk"
        elif self.status in (204, 304):
            self.done = True
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise FramingError(f"content-length is {length[:20]!r}")
            self._mode, self._left = "length", int(length)
            self.done = self._left == 0
        else:
            self._mode, self.keep_alive = "close", False

    def _chunks(self, data: bytes) -> bool:
        if self._carry:
            data, self._carry = self._carry + data, b""
        at, size = 0, len(data)
        self.at_chunk = False
        known, body = WHOLE_CHUNKS, self.body if self._collect else None
        while True:
            if self._left:
                if self._collect:
                    self._collect_chunk(data, at)
                if size - at < self._left:
                    self._left -= size - at
                    return False
                at += self._left
                self._left = 0
            if at == size:
                self.at_chunk = True
                return False
            end = data.find(b"\r\n", at)
            if end < 0:
                if size - at > 1024:
                    raise FramingError("a chunk-size line does not end")
                self._carry = data[at:]
                return False
            whole = known.get(data[at:end])
            if whole is not None and at + whole <= size:
                if body is not None:
                    body.append((self._read, data[end + 2 : at + whole - 2]))
                at += whole
                continue
            digits = data[at:end].partition(b";")[0].strip()
            # int() would take a sign or an underscore.
            if not digits or digits.strip(_HEX) or len(digits) > 15:
                raise FramingError("a chunk size is not a hexadecimal number")
            length = int(digits, 16)
            if length == 0:
                return self._trailers(data, at, end)
            self._left = length + 2  # and its line end
            if len(known) < _SIZES_MAX:
                known[data[at:end]] = end - at + length + 4
            at = end + 2

    def _trailers(self, data: bytes, at: int, end: int) -> bool:
        while (close := data.find(b"\r\n", end + 2)) != end + 2:
            if close < 0:
                self._carry = data[at:]  # parsed again from the last chunk's size line
                return False
            end = close
        self.done = True
        self.surplus = len(data) - close - 2
        return True

    def _collect_chunk(self, data: bytes, at: int) -> None:
        text = data[at : at + max(0, self._left - 2)]
        if text:
            self.body.append((self._read, text))
