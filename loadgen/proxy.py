"""HTTP proxies: what is said to one so that it passes a request, or a whole connection, on.

Belongs here: the proxy's address and credentials, the absolute form of a request's target, the CONNECT
request and its answer.
Does not belong here: which hosts need no proxy (the caller knows), sockets (``transport``).

Plain HTTP/1.1 goes to the proxy with the absolute form; HTTPS and HTTP/2 go through a CONNECT tunnel.
Credentials come in the URL (``http://user:password@host:port``) and leave this module only on the wire.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from loadgen.plan import PlanError
from loadgen.transport import Origin, Tunnel, lookup

_ANSWER_MAX = 16_384


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy resolved once. ``authorization`` is the value of Proxy-Authorization, or empty."""

    family: int
    address: tuple[object, ...]
    authorization: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Resolve ``http://[user:password@]host[:port]``; raises ``PlanError`` without repeating the URL, or
        ``ConnectionError`` when the name is unknown."""
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError:
            raise PlanError("proxy: its port is not a number from 0 to 65535") from None
        if parts.scheme != "http" or not parts.hostname:
            raise PlanError("proxy: it must be an http:// address, as http://host:port")
        family, address = lookup(parts.hostname, port)
        authorization = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
        return cls(family, address, authorization)

    def head_line(self) -> str:
        """The header line that goes with every request in absolute form."""
        return f"Proxy-Authorization: {self.authorization}\r\n" if self.authorization else ""

    def tunnel(self, origin: Origin) -> Tunnel:
        """The CONNECT that opens a tunnel to *origin*."""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        target = f"{host}:{origin.port}"
        request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{self.head_line()}\r\n"
        return Tunnel(request.encode("latin-1"), check_answer)


def check_answer(received: bytes) -> int:
    """The length of the proxy's answer to CONNECT if it is complete and good, 0 if it is not complete; raises
    ``ConnectionError`` on a bad one."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > _ANSWER_MAX or not b"HTTP/1.".startswith(received[:7]):
            raise ConnectionError(0, "the proxy's answer is not HTTP/1.1")
        return 0
    words = received.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
    if not words[0].startswith("HTTP/1.") or len(words) < 2 or len(words[1]) != 3 or words[1][0] != "2":
        raise ConnectionError(0, f"the proxy refused the tunnel: {' '.join(words[1:])[:80]}")
    return end + 4
