"""How bytes travel: a non-blocking TCP socket, plain or inside TLS, and the stamp of every read.

Belongs here: connecting, sending, receiving, the receive stamp (the kernel's where it gives one). Both
kinds have the same four methods, so the loop in ``client`` knows no difference.
Does not belong here: HTTP (``http1``), requests and timeouts (``client``).

Kernel stamps are CLOCK_REALTIME; :class:`KernelClock` turns them into CLOCK_MONOTONIC by an offset sampled
all along the run. A stamp that is not between the last sample and now (the wall clock was set) is replaced
by the user's. TLS has user stamps: a record's bytes are there only after decryption.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from loadgen.plan import PlanError

READ_BYTES = 262_144
_SO_TIMESTAMPNS = 35  # the same number on x86-64 and arm64; Python's socket module does not name it
_TIMESPEC = struct.Struct("qq")
_MAX_AGE_NS = 1_000_000_000
_BUFFER = bytearray(READ_BYTES)
_VIEW = memoryview(_BUFFER)

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
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionError(f"The host {parts.hostname} cannot be resolved ({error.strerror}).") from None
    family, _, _, _, address = found[0]
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Origin(parts.hostname, port, parts.scheme == "https", path, family, address)


class KernelClock:
    """The offset from CLOCK_REALTIME to ``perf_counter_ns``, to be sampled often."""

    __slots__ = ("offset_ns",)

    def __init__(self) -> None:
        self.offset_ns = 0
        self.sample()

    def sample(self) -> None:
        """Take the offset anew, between two readings of the monotonic clock."""
        before = time.perf_counter_ns()
        wall = time.time_ns()
        self.offset_ns = wall - (before + time.perf_counter_ns()) // 2


class Channel(Protocol):
    """One connection. ``receive`` raises ``BlockingIOError`` when nothing is there; ``b""`` is the end."""

    def fileno(self) -> int:
        """The socket's descriptor, for epoll."""

    def advance(self) -> int:
        """Go on connecting; ``READY``, or what to wait for. Raises ``OSError`` when it failed."""

    def send(self, data: memoryview) -> int:
        """Send what fits now; 0 when nothing does."""

    def receive(self) -> tuple[bytes, int, int | None]:
        """One read: bytes, stamp (monotonic ns), and the user stamp's lag behind the kernel's in µs if it
        gave one."""

    def close(self) -> None:
        """Close at once."""


class PlainChannel:
    """TCP with TCP_NODELAY; kernel receive stamps where the system gives them."""

    __slots__ = ("_clock", "_connected", "_sock")

    def __init__(self, origin: Origin, clock: KernelClock | None) -> None:
        self._sock = socket.socket(origin.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clock = clock
        if clock is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        error = self._sock.connect_ex(origin.address)
        self._connected = error == 0
        if error not in (0, errno.EINPROGRESS):
            self._sock.close()
            raise OSError(error, os.strerror(error))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def advance(self) -> int:
        """READY once TCP is connected; to be called when the socket became writable."""
        if not self._connected:
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            try:
                self._sock.getpeername()
            except OSError:
                return WANT_WRITE
            self._connected = True
        return READY

    def send(self, data: memoryview) -> int:
        """Send what the socket's buffer takes."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def receive(self) -> tuple[bytes, int, int | None]:
        """One ``recvmsg``, or ``recv_into`` without a kernel clock."""
        if self._clock is None:
            size = self._sock.recv_into(_VIEW)
            return bytes(_VIEW[:size]), time.perf_counter_ns(), None
        size, extra, _, _ = self._sock.recvmsg_into([_VIEW], 64)
        now = time.perf_counter_ns()
        for _, kind, value in extra:
            if kind == _SO_TIMESTAMPNS:
                seconds, nanos = _TIMESPEC.unpack(value)
                stamp = seconds * 1_000_000_000 + nanos - self._clock.offset_ns
                if 0 <= now - stamp < _MAX_AGE_NS:
                    return bytes(_VIEW[:size]), stamp, (now - stamp) // 1000
        return bytes(_VIEW[:size]), now, None

    def upgrade(self, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
        """Hand the connected socket over to TLS; the descriptor stays the same."""
        return context.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)

    def close(self) -> None:
        """Close at once."""
        self._sock.close()


class TlsChannel:
    """TLS over a non-blocking TCP connection; stamps are taken after the record was decrypted."""

    __slots__ = ("_context", "_host", "_plain", "_tls")

    def __init__(self, origin: Origin, context: ssl.SSLContext) -> None:
        self._plain = PlainChannel(origin, None)
        self._context, self._host = context, origin.host
        self._tls: ssl.SSLSocket | None = None

    def fileno(self) -> int:
        """The socket's descriptor, the same before and after the handshake."""
        return self._plain.fileno() if self._tls is None else self._tls.fileno()

    def advance(self) -> int:
        """Connect, then shake hands."""
        if self._tls is None:
            if self._plain.advance() != READY:
                return WANT_WRITE
            self._tls = self._plain.upgrade(self._context, self._host)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return WANT_READ
        except ssl.SSLWantWriteError:
            return WANT_WRITE
        return READY

    def send(self, data: memoryview) -> int:
        """Encrypt and send; 0 when the socket's buffer is full."""
        assert self._tls is not None
        try:
            return self._tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def receive(self) -> tuple[bytes, int, int | None]:
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
        return b"".join(pieces), time.perf_counter_ns(), None

    def close(self) -> None:
        """Close at once, without TLS's goodbye."""
        (self._plain if self._tls is None else self._tls).close()


def open_channel(origin: Origin, context: ssl.SSLContext | None, clock: KernelClock | None) -> Channel:
    """Start connecting to *origin*; raises ``OSError`` when that fails at once."""
    if origin.tls:
        assert context is not None
        return TlsChannel(origin, context)
    return PlainChannel(origin, clock)
