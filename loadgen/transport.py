"""How bytes travel: a non-blocking TCP socket, plain or inside TLS, and the stamp of every read.

Belongs here: connecting, sending, receiving, the receive stamp (the kernel's where it gives one). Both
kinds have the same four methods, so the loop in ``client`` knows no difference.
Does not belong here: HTTP (``http1``), requests and timeouts (``client``).

Kernel stamps are CLOCK_REALTIME; the offset of ``clock.KernelClock`` turns them into CLOCK_MONOTONIC. One
that lies in the future (the wall clock was set) is replaced by the user's. TLS has user stamps: a record's
bytes are there only after decryption.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from loadgen.clock import KernelClock
from loadgen.plan import PlanError

READ_BYTES = 65_536  # below the size from which malloc maps pages of their own
ANCILLARY_BYTES = 32  # one control message with a timespec
_SO_TIMESTAMPNS = 35  # the same number on x86-64 and arm64; Python's socket module does not name it

WANT_READ, WANT_WRITE, READY = 1, 2, 0


@dataclass(frozen=True, slots=True)
class Origin:
    """A server resolved once, before the clock. ``path`` is the prefix of every request's path, without
    ``/v1``."""

    host: str
    port: int
    tls: bool
    path: str
    family: int
    address: tuple[object, ...]

    @property
    def authority(self) -> str:
        """The ``Host`` header's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def resolve(base_url: str) -> Origin:
    """Parse and resolve ``http(s)://host[:port][/prefix]``; raises ``PlanError`` naming the URL's fault, or
    ``ConnectionError`` when the name is unknown."""
    try:
        parts = urlsplit(base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise PlanError(f"base_url: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PlanError(
            f"base_url: {parts.scheme}://{parts.hostname or ''} is not an http:// or https:// address"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise PlanError(
            "base_url: it may hold no user, password, query or fragment; name an API key by its variable"
        )
    family, address = lookup(parts.hostname, port)
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Origin(parts.hostname, port, parts.scheme == "https", path, family, address)


def lookup(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    """Address family and address of *host*; raises ``ConnectionError`` when the name is unknown."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionError(f"The host {host} cannot be resolved ({error.strerror}).") from None
    return found[0][0], found[0][4]


class Channel(Protocol):
    """One connection. ``receive`` raises ``BlockingIOError`` when nothing is there; ``b""`` is the end."""

    @property
    def receive_kernel(self) -> Callable[..., Any] | None:
        """The socket's own ``recvmsg`` where its ancillary data holds the kernel's stamp."""

    def fileno(self) -> int:
        """The socket's descriptor, for epoll."""

    def advance(self) -> int:
        """Go on connecting; ``READY``, or what to wait for. Raises ``OSError`` when it failed."""

    def send(self, data: memoryview) -> int:
        """Send what fits now; 0 when nothing does."""

    def receive(self) -> tuple[bytes, int, int]:
        """One read: bytes, stamp (monotonic ns), and the user stamp's lag behind it in ns; -1 where the stamp
        is the user's own."""

    def close(self) -> None:
        """Close at once."""


@dataclass(slots=True)
class Tunnel:
    """A request to be sent on a new connection before it is anybody's, and the judge of its answer: its length,
    0 for more to come; raises ``OSError``."""

    request: bytes
    check: Callable[[bytes], int]
    received: bytes = b""


class PlainChannel:
    """TCP with TCP_NODELAY; kernel receive stamps where the system gives them. *via* is the address to connect
    to instead of the origin's, *tunnel* what to say there first."""

    __slots__ = ("_clock", "_connected", "_sock", "_tunnel", "receive_kernel")

    def __init__(
        self,
        origin: Origin,
        clock: KernelClock | None,
        via: tuple[int, tuple[object, ...]] | None = None,
        tunnel: Tunnel | None = None,
    ) -> None:
        family, address = via or (origin.family, origin.address)
        self._sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clock, self._tunnel = clock, tunnel
        self.receive_kernel: Callable[..., Any] | None = self._sock.recvmsg if clock is not None else None
        if clock is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        error = self._sock.connect_ex(address)
        self._connected = error == 0
        if error not in (0, errno.EINPROGRESS):
            self._sock.close()
            raise OSError(error, os.strerror(error))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def advance(self) -> int:
        """READY once TCP is connected and any tunnel open; to be called when the socket became ready."""
        if not self._connected:
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            try:
                self._sock.getpeername()
            except OSError:
                return WANT_WRITE
            self._connected = True
        tunnel = self._tunnel
        if tunnel is None:
            return READY
        if tunnel.request:
            tunnel.request = tunnel.request[self.send(memoryview(tunnel.request)) :]
            return WANT_WRITE if tunnel.request else WANT_READ
        try:
            data = self._sock.recv(4096, socket.MSG_PEEK)
        except BlockingIOError:
            return WANT_READ
        if not data:
            raise ConnectionError(0, "the proxy closed the connection")
        before = len(tunnel.received)
        end = tunnel.check(tunnel.received + data)
        taken = self._sock.recv(end - before if end else len(data))  # what follows the answer is the origin's
        if not end:
            tunnel.received += taken
            return WANT_READ
        self._tunnel = None
        return READY

    def send(self, data: memoryview) -> int:
        """Send what the socket's buffer takes."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def receive(self) -> tuple[bytes, int, int]:
        """One ``recvmsg``, or ``recv`` without a kernel clock."""
        if self._clock is None:
            data = self._sock.recv(READ_BYTES)
            return data, time.perf_counter_ns(), -1
        data, extra, _, _ = self._sock.recvmsg(READ_BYTES, ANCILLARY_BYTES)
        now = time.perf_counter_ns()
        stamp, lag = self._clock.stamp(now, extra)
        return data, stamp, lag

    def upgrade(self, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
        """Hand the connected socket over to TLS; the descriptor stays the same."""
        return context.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)

    def close(self) -> None:
        """Close at once."""
        self._sock.close()


class TlsChannel:
    """TLS over a non-blocking TCP connection; stamps are taken after the record was decrypted. *alpn* is the
    protocol the server must have chosen."""

    __slots__ = ("_alpn", "_context", "_host", "_plain", "_tls")

    receive_kernel: Callable[..., Any] | None = None

    def __init__(
        self,
        origin: Origin,
        context: ssl.SSLContext,
        via: tuple[int, tuple[object, ...]] | None = None,
        tunnel: Tunnel | None = None,
        alpn: str | None = None,
    ) -> None:
        self._plain = PlainChannel(origin, None, via, tunnel)
        self._context, self._host, self._alpn = context, origin.host, alpn
        self._tls: ssl.SSLSocket | None = None

    def fileno(self) -> int:
        """The socket's descriptor, the same before and after the handshake."""
        return self._plain.fileno() if self._tls is None else self._tls.fileno()

    def advance(self) -> int:
        """Connect, then shake hands."""
        if self._tls is None:
            if (state := self._plain.advance()) != READY:
                return state
            self._tls = self._plain.upgrade(self._context, self._host)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return WANT_READ
        except ssl.SSLWantWriteError:
            return WANT_WRITE
        if self._alpn is not None and self._tls.selected_alpn_protocol() != self._alpn:
            raise ConnectionError(0, f"the server does not speak {self._alpn} over TLS")
        return READY

    def send(self, data: memoryview) -> int:
        """Encrypt and send; 0 when the socket's buffer is full."""
        assert self._tls is not None
        try:
            return self._tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def receive(self) -> tuple[bytes, int, int]:
        """Everything decrypted by now, with one stamp: what stays inside the TLS layer would wake no
        epoll."""
        assert self._tls is not None
        pieces: list[bytes] = []
        try:
            while piece := self._tls.recv(READ_BYTES):
                pieces.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not pieces:
                raise BlockingIOError from None
        except OSError:
            if not pieces:
                raise
        return b"".join(pieces), time.perf_counter_ns(), -1

    def close(self) -> None:
        """Close at once, without TLS's goodbye."""
        (self._plain if self._tls is None else self._tls).close()
