"""Services: an address that leads to ready pods.

Belongs here: listening while there is a ready pod, passing bytes on, choosing pods in turn. Does not belong here:
giving out addresses (``addresses``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from dataclasses import dataclass, field

from tests.launch.kube.conditions import is_ready
from tests.launch.kube.kinds import POD, SERVICE, Obj, is_deleting, namespace_of, uid_of
from tests.launch.kube.probes import port_number
from tests.launch.kube.store import Store

CHUNK = 1 << 16


def endpoints(store: Store, service: Obj) -> list[Obj]:
    """Ready pods behind *service*."""
    selector = service["spec"].get("selector") or {}
    if not selector:
        return []
    return [
        pod
        for pod in store.all(POD, namespace_of(service))
        if is_ready(pod)
        and not is_deleting(pod)
        and all((pod["metadata"].get("labels") or {}).get(key) == value for key, value in selector.items())
    ]


def target(pod: Obj, port: Obj) -> tuple[str, int]:
    """Address and port of *pod* for one port of a Service."""
    ports = {"ports": [one for c in pod["spec"]["containers"] for one in c.get("ports") or ()]}
    return str(pod["status"]["podIP"]), port_number(port["targetPort"], ports)


@dataclass
class _Listener:
    servers: list[asyncio.Server] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Services:
    """A listener per port while a Service has ready pods; without one, connections are refused."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._listeners: dict[str, _Listener] = {}
        self._turn = itertools.count()

    def sync(self) -> None:
        there = {uid_of(one): one for one in self.store.all(SERVICE)}
        for uid, service in there.items():
            wanted = service["spec"].get("clusterIP") != "None" and bool(endpoints(self.store, service))
            if wanted and uid not in self._listeners:
                listener = self._listeners[uid] = _Listener()
                listener.task = asyncio.create_task(self._listen(listener, service))
            elif not wanted and uid in self._listeners:
                self._close(uid)
        for uid in [uid for uid in self._listeners if uid not in there]:
            self._close(uid)

    async def _listen(self, listener: _Listener, service: Obj) -> None:
        for port in service["spec"]["ports"]:
            serve = functools.partial(self._serve, service, port)
            address = service["spec"]["clusterIP"]
            listener.servers.append(await asyncio.start_server(serve, address, port["port"]))

    def _close(self, uid: str) -> None:
        listener = self._listeners.pop(uid)
        if listener.task is not None:
            listener.task.cancel()
        for server in listener.servers:
            server.close()

    async def _serve(
        self, service: Obj, port: Obj, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        pods = endpoints(self.store, self.store.current(SERVICE, service) or service)
        if not pods:
            writer.close()
            return
        try:
            there, back = await asyncio.open_connection(*target(pods[next(self._turn) % len(pods)], port))
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pass(reader, back), _pass(there, writer))


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
        with contextlib.suppress(OSError):
            sink.write_eof()
    except (OSError, asyncio.CancelledError):
        sink.transport.abort()
    finally:
        sink.close()
