"""HTTP/2 as a profile: many streams on one connection, the same samples as over HTTP/1.1."""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from loadgen.client import Client
from loadgen.decode import decode
from loadgen.exchange import Exchange, Request
from loadgen.plan import Replica

from ..support.certificate import certificate
from ..support.sockets import accepted
from .conftest import HANG_S
from .test_loadgen_decode import delta, sse, usage_only
from .test_loadgen_proxy import Relay, ask, client_for

WORDS, GAP_S = 4, 0.01


def answer() -> list[bytes]:
    return sse(
        delta("", role="assistant"),
        *(delta(f"w{index} ") for index in range(WORDS)),
        delta("", finish="length"),
        usage_only(WORDS),
    )


class Server:
    """Answers every request with ``answer()``, one event each ``GAP_S``; *fault* is what happens instead to the
    second request of a connection, at its third event. With ``hold`` the first request gets three events and
    no more."""

    def __init__(self, *, streams: int = 100, fault: str = "", context: ssl.SSLContext | None = None) -> None:
        self._streams, self._fault, self._context = streams, fault, context
        self.accepted = 0
        self.bodies: list[bytes] = []
        self.paths: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for connection in accepted(self._listener):
            self.accepted += 1
            threading.Thread(target=self._guard, args=(connection,), daemon=True).start()

    def _guard(self, connection: socket.socket) -> None:
        try:
            with connection:
                plain = connection
                if self._context is not None:
                    plain = self._context.wrap_socket(connection, server_side=True)
                self._one(plain)
        except OSError:
            return

    def _one(self, sock: socket.socket) -> None:
        side = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        codes = h2.settings.SettingCodes
        side.local_settings = h2.settings.Settings(
            client=False, initial_values={codes.MAX_CONCURRENT_STREAMS: self._streams}
        )
        side.initiate_connection()
        sock.sendall(side.data_to_send())
        due: list[tuple[float, int, int]] = []  # when, stream, event
        order: list[int] = []
        events = answer()
        while True:
            wait = max(0.0, due[0][0] - time.monotonic()) if due else 10.0
            pending = isinstance(sock, ssl.SSLSocket) and sock.pending()
            if pending or select.select([sock], [], [], wait)[0]:
                data = sock.recv(65536)
                if not data:
                    return
                for event in side.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.paths.append(dict(event.headers)[b":path"])
                        self.bodies.append(b"")
                    elif isinstance(event, h2.events.DataReceived):
                        self.bodies[-1] += event.data
                        side.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        order.append(event.stream_id)
                        side.send_headers(
                            event.stream_id, [(":status", "200"), ("content-type", "text/event-stream")]
                        )
                        due.append((time.monotonic() + GAP_S, event.stream_id, 0))
                    elif isinstance(event, h2.events.StreamReset):
                        due = [one for one in due if one[1] != event.stream_id]
            while due and due[0][0] <= time.monotonic():
                at, stream, index = due.pop(0)
                if self._fault == "hold" and stream == order[0] and index == 3:
                    continue
                if self._fault and len(order) > 1 and stream == order[1] and index == 3:
                    if self._fault == "close":
                        return
                    if self._fault == "reset":
                        side.reset_stream(stream, 2)
                        continue
                last = index == len(events) - 1
                side.send_data(stream, events[index], end_stream=last)
                if not last:
                    due.append((at + GAP_S, stream, index + 1))
                    due.sort()
                elif self._fault == "goaway":
                    side.close_connection(last_stream_id=stream)
            sock.sendall(side.data_to_send())

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def go(**options: Any) -> Server:
        made.append(Server(**options))
        return made[-1]

    yield go
    for server in made:
        server.close()


def client_to(server: Server, scheme: str = "http", **options: Any) -> tuple[Client, Replica]:
    replica = Replica("one", f"{scheme}://127.0.0.1:{server.port}")
    return client_for(replica, http_version="2", **options), replica


def test_many_streams_share_a_connection_and_decode_as_ever(start: Callable[..., Server]) -> None:
    server = start()
    client, replica = client_to(server, headers={"X-Trace": "1"})
    client.warm(4)
    found = ask(client, replica, 8)
    assert (server.accepted, client.counters.opened) == (1, 1)
    assert set(server.paths) == {b"/v1/chat/completions"}
    assert all(json.loads(body)["model"] == "truth" for body in server.bodies)
    for exchange in found:
        seen = decode(exchange, text=True)
        assert (seen.status, seen.http_status, seen.output_tokens) == ("ok", 200, WORDS)
        assert seen.text == "w0 w1 w2 w3 "
        assert len(seen.chunk_tokens) == WORDS
        assert exchange.kernel_stamped
        assert list(exchange.stamps) == sorted(exchange.stamps)
    assert client.counters.reads > 0
    client.close_idle()
    assert ask(client, replica)[0].reused is False
    client.close()


def test_a_body_larger_than_the_window_goes_out_in_parts(start: Callable[..., Server]) -> None:
    server = start()
    client, replica = client_to(server)
    body = b'{"prompt":"' + b"x" * 300_000 + b'"}'  # a stream's first window is 65,535 bytes
    client.submit(Exchange(Request(0, "r", body, b"", None, WORDS), replica, True))
    end = time.monotonic() + HANG_S
    while not client.done:
        assert time.monotonic() < end
        client.poll(0.1)
    assert decode(client.done[0]).status == "ok"
    assert server.bodies == [body]
    client.close()


def test_more_streams_than_the_server_allows_take_another_connection(start: Callable[..., Server]) -> None:
    server = start(streams=2)
    client, replica = client_to(server)
    ask(client, replica)  # its settings are known now
    found = ask(client, replica, 5)
    assert {decode(one).status for one in found} == {"ok"}
    assert server.accepted >= 3
    client.close()


def test_a_reset_stream_is_one_failure_and_a_closed_connection_all_of_them(
    start: Callable[..., Server],
) -> None:
    for fault, lost in (("reset", 1), ("close", 3)):
        client, replica = client_to(start(fault=fault))
        found = ask(client, replica, 3)
        answers = [decode(one) for one in found]
        failed = [one for one in answers if one.status == "error"]
        assert [one.error_class for one in failed] == ["mid_stream"] * lost, fault
        assert all(one.chunk_reads for one in failed)  # partial samples are kept
        client.close()


def test_a_connection_that_is_going_away_takes_no_more(start: Callable[..., Server]) -> None:
    server = start(fault="goaway")
    client, replica = client_to(server)
    assert [decode(ask(client, replica)[0]).status for _ in range(3)] == ["ok"] * 3
    assert server.accepted == 3
    client.close()


def test_a_cancelled_stream_leaves_the_others_alone(start: Callable[..., Server]) -> None:
    client, replica = client_to(start(fault="hold"))
    body = b"{}"
    cancelled = Exchange(Request(0, "r", body, b"", None, WORDS, cancel_after_ns=25_000_000), replica, True)
    kept = Exchange(Request(1, "s", body, b"", None, WORDS), replica, True)
    client.submit(cancelled)
    client.submit(kept)
    end = time.monotonic() + HANG_S
    while len(client.done) < 2:
        assert time.monotonic() < end
        client.poll(0.005)
        client.fire_due(time.perf_counter_ns())
    assert (decode(cancelled).status, cancelled.planned_cancel) == ("cancelled", True)
    assert decode(kept).status == "ok"
    client.close()


def test_fresh_connections_and_a_proxys_tunnel(start: Callable[..., Server]) -> None:
    server = start()
    with closing(Relay()) as relay:
        client, replica = client_to(server, fresh=True, proxy=f"http://u:p@127.0.0.1:{relay.port}")
        found = [ask(client, replica)[0] for _ in range(2)]
        client.close()
    assert [decode(one).status for one in found] == ["ok", "ok"]
    assert [head.partition(b" HTTP")[0] for head in relay.heads] == [
        b"CONNECT 127.0.0.1:%d" % server.port
    ] * 2


def test_a_server_of_http_1_only_is_told_at_once(start: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        replica = Replica("one", f"http://127.0.0.1:{listener.getsockname()[1]}")

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                while connection.recv(65536):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        client = client_for(replica, http_version="2")
        (found,) = ask(client, replica)
    assert found.failure is not None
    assert found.failure.error_class == "malformed"
    client.close()


def test_http2_over_tls_by_alpn(
    start: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    for protocols, expected in ((["h2"], "ok"), (["http/1.1"], "connect")):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        context.set_alpn_protocols(protocols)
        client, replica = client_to(start(context=context), "https")
        (found,) = ask(client, replica)
        seen = decode(found)
        assert (seen.error_class or seen.status) == expected, seen.error_text
        assert not found.kernel_stamped
        client.close()
