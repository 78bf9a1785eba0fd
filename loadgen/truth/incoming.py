"""A request out of received bytes.

Belongs here: the part of HTTP/1.1 that clients of an inference server use. Does not belong here: sockets
(``loop``), the JSON inside (``asking``).
"""

from __future__ import annotations

from typing import NamedTuple

from loadgen.truth.asking import Refusal

_MOST_HEAD, _MOST_BODY = 64 * 1024, 64 * 2**20
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Incoming(NamedTuple):
    """One request; *path* without the query, *headers* in lower case, *close* if the client wants no more
    answers on this connection."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def close(self) -> bool:
        """Whether the connection ends with this answer."""
        return self.headers.get("connection", "").lower() == "close"


class Partial(NamedTuple):
    """The request is not whole yet; *waits* if the client sends its body only when told to go on."""

    waits: bool


def take(received: bytearray) -> Incoming | Partial:
    """Take the first request off *received*; raises :class:`Refusal` for what cannot be read (after which
    the connection is of no more use)."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > _MOST_HEAD:
            raise Refusal(400, f"the request's head is longer than {_MOST_HEAD} bytes")
        return Partial(False)
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise Refusal(400, "this is not an HTTP/1.1 request")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    size = headers.get("content-length", "0")
    if "transfer-encoding" in headers:
        raise Refusal(411, "a request's body needs a Content-Length")
    if not size.isdecimal():
        raise Refusal(400, f"Content-Length {size!r} is not a number")
    length = int(size)
    if length > _MOST_BODY:
        raise Refusal(413, f"a request's body may have {_MOST_BODY} bytes")
    body_at = end + 4
    if len(received) < body_at + length:
        return Partial("100-continue" in headers.get("expect", "").lower() and len(received) == body_at)
    body = bytes(received[body_at : body_at + length])
    del received[: body_at + length]
    return Incoming(parts[0], parts[1].partition("?")[0], headers, body)
