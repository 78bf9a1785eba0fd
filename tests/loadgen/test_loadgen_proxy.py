"""Through a proxy: absolute form for http, a tunnel for https, credentials on the wire and nowhere else."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from loadgen.client import Client
from loadgen.exchange import Exchange, Request
from loadgen.http1_pool import Http1Pool
from loadgen.plan import PlanError, Replica
from loadgen.proxy import Proxy, check_answer

from ..support.sockets import accepted
from .conftest import HANG_S, Truth


class Relay:
    """A proxy that knows both forms; ``heads`` are the first lines and credentials it was shown."""

    def __init__(self, refuse: bytes | None = None) -> None:
        self.heads: list[bytes] = []
        self._refuse = refuse
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for connection in accepted(self._listener):
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := connection.recv(65536)):
                    return
                data += more
            self.heads.append(data.partition(b"\r\n\r\n")[0])
            if self._refuse is not None:
                connection.sendall(self._refuse)
                return
            method, target, _ = data.split(b" ", 2)
            tunnel = method == b"CONNECT"
            address = target if tunnel else target.split(b"/")[2]
            host, _, port = address.decode().rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), timeout=HANG_S) as upstream:
                if tunnel:
                    connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    upstream.sendall(data)
                there = threading.Thread(target=_pump, args=(connection, upstream), daemon=True)
                there.start()
                _pump(upstream, connection)

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def relay() -> Iterator[Relay]:
    with closing(Relay()) as made:
        yield made


BODY = b'{"model":"truth","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":4}'


def ask(client: Client, replica: Replica, count: int = 1) -> list[Exchange]:
    for seq in range(count):
        client.submit(Exchange(Request(seq, f"r-{seq}", BODY, b"hi", None, 4), replica, True))
    end = time.monotonic() + HANG_S
    while len(client.done) < count:
        assert time.monotonic() < end
        client.poll(0.1)
    found, client.done = client.done, []
    return found


def client_for(replica: Replica, **options: object) -> Client:
    arguments: dict[str, object] = {
        "api": "chat",
        "headers": {},
        "request_timeout_s": HANG_S,
        "idle_timeout_s": HANG_S,
    }
    return Client((replica,), **{**arguments, **options})  # type: ignore[arg-type]


def test_plain_http_goes_out_in_absolute_form_with_credentials(
    truth: Callable[..., Truth], relay: Relay
) -> None:
    server = truth("--ttft-ms", "2", "--gap-ms", "1")
    replica = Replica("one", server.url)
    client = client_for(replica, proxy=f"http://me:p%40ss@127.0.0.1:{relay.port}")
    first, second = ask(client, replica), ask(client, replica)
    assert [one.failure for one in (*first, *second)] == [None, None]
    assert (first[0].http_status, second[0].reused) == (200, True)
    client.close()
    (head,) = relay.heads  # one connection for both
    assert head.startswith(
        b"POST %b/v1/chat/completions HTTP/1.1\r\nHost: %b\r\n"
        % (server.url.encode(), server.url.partition("://")[2].encode())
    )
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:p@ss") in head


def test_https_and_http2_go_through_a_tunnel(relay: Relay) -> None:
    """The tunnel alone: what comes after CONNECT is the origin's, so a stand-in that speaks no TLS fails there."""
    with socket.create_server(("127.0.0.1", 0)) as origin:
        heard: list[bytes] = []

        def serve() -> None:
            connection, _ = origin.accept()
            with connection:
                heard.append(connection.recv(65536))

        threading.Thread(target=serve, daemon=True).start()
        port = origin.getsockname()[1]
        replica = Replica("one", f"https://127.0.0.1:{port}")
        client = client_for(replica, proxy=f"http://me:secret@127.0.0.1:{relay.port}")
        (lost,) = ask(client, replica)
    assert relay.heads[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % port)
    assert base64.b64encode(b"me:secret") in relay.heads[0]
    assert heard[0][:1] == b"\x16"  # a TLS client hello
    assert lost.failure is not None
    assert (lost.failure.error_class, "secret" in lost.failure.text) == ("connect", False)
    client.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "refused the tunnel: 407 Proxy Authentication",
        ),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP/1.1"),
        (b"", "the proxy closed the connection"),
    ],
)
def test_a_proxy_that_refuses_is_a_connect_error(answer: bytes, said: str) -> None:
    with closing(Relay(refuse=answer)) as relay:
        replica = Replica("one", "https://127.0.0.1:9")
        client = client_for(replica, proxy=f"http://127.0.0.1:{relay.port}")
        (lost,) = ask(client, replica)
        client.close()
    assert lost.failure is not None
    assert lost.failure.error_class == "connect"
    assert said in lost.failure.text


def test_a_tunnels_answer_may_come_in_pieces_and_ends_at_its_blank_line() -> None:
    whole = b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n"
    assert [check_answer(whole[:size]) for size in range(len(whole))] == [0] * len(whole)
    assert check_answer(whole) == check_answer(whole + b"the origin speaks first") == len(whole)


@pytest.mark.parametrize("url", ["https://u:pw@h:1", "socks5://h", "http://h:99999", "http://"])
def test_a_bad_proxy_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(PlanError, match=r"^proxy: ") as refused:
        Proxy.parse(url)
    assert "pw" not in str(refused.value)
    assert "pw" not in repr(Proxy.parse("http://u:pw@127.0.0.1"))


def test_sticky_requests_share_a_connection_and_fresh_ones_have_their_own(
    truth: Callable[..., Truth],
) -> None:
    replica = Replica("one", truth("--ttft-ms", "2", "--gap-ms", "1").url)
    client = client_for(replica)
    ask(client, replica, 3)  # three connections now
    (pool,) = client._pools.values()
    assert isinstance(pool, Http1Pool)
    carried: dict[str, list[object]] = {"a": [], "b": []}
    for name in ("a", "b", "a", "b", "b", "a"):
        exchange = Exchange(Request(0, "r", BODY, b"hi", None, 4, affinity=name), replica, True)
        client.submit(exchange)
        carried[name].append(exchange.carrier)
        other = Exchange(Request(1, "s", BODY, b"hi", None, 4), replica, True)
        client.submit(other)  # takes whatever is idle
        while len(client.done) < 2:
            client.poll(1)
        client.done = []
    assert {name: len(set(map(id, found))) for name, found in carried.items()} == {"a": 1, "b": 1}
    client.close()
    fresh = client_for(replica, fresh=True)
    found = [ask(fresh, replica)[0] for _ in range(3)]
    assert [one.reused for one in found] == [False] * 3
    assert fresh.counters.opened == 3
    assert all(one.connect_ms for one in found)
    fresh.close()


def test_a_planned_cancel_comes_when_it_is_due(truth: Callable[..., Truth]) -> None:
    replica = Replica("one", truth("--ttft-ms", "5", "--gap-ms", "10", "--tokens", "500").url)
    client = client_for(replica)
    body = BODY.replace(b'"max_tokens":4', b'"max_tokens":500')
    planned = Exchange(Request(0, "r", body, b"hi", None, 500, cancel_after_ns=80_000_000), replica, True)
    soon = Exchange(Request(1, "s", BODY, b"hi", None, 4, cancel_after_ns=30_000_000_000), replica, True)
    client.submit(planned)
    client.submit(soon)
    while not planned.stamps or not soon.sent_ns:
        client.poll(1)
    assert client.next_due_ns() == planned.sent_ns + 80_000_000
    client.fire_due(planned.sent_ns + 79_999_999)
    assert not planned.planned_cancel
    client.fire_due(planned.sent_ns + 80_000_000)
    while len(client.done) < 2:
        client.poll(1)
    assert planned.planned_cancel
    assert planned.failure is not None
    assert (planned.failure.status, planned.failure.error_class) == ("cancelled", None)
    assert len(planned.stamps) >= 1  # what came before is kept
    assert (soon.failure, soon.planned_cancel) == (None, False)
    assert client.next_due_ns() is None
    client.close()
