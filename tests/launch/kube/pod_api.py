"""Subresources of pods and Services.

Belongs here: log, proxy, eviction, scale. Does not belong here: paths (``api``), reading logs (``logs``).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import aiohttp
import orjson
from aiohttp import web

from tests.launch.kube import answers, api_faults
from tests.launch.kube.cluster import Cluster
from tests.launch.kube.deletion import DeleteOptions, evict
from tests.launch.kube.faults import ApiFault
from tests.launch.kube.kinds import POD, SERVICE, Kind, Obj
from tests.launch.kube.logs import LogOptions, find_container, stream
from tests.launch.kube.services import endpoints, target
from tests.launch.kube.streaming import send_stream

_HOP = {"host", "authorization", "connection", "content-length", "accept-encoding", "transfer-encoding"}


class PodApi:
    """Handles what is below one pod."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.store, self.registry = cluster, cluster.store, cluster.registry

    async def handle(
        self, request: web.Request, kind: Kind, namespace: str, name: str, subresource: str, rest: str,
        struck: list[ApiFault],
    ) -> web.StreamResponse:  # fmt: skip
        """Raises ``ApiError``."""
        if subresource == "proxy" and kind in (POD, SERVICE):
            return await self._proxy(request, kind, namespace, name, rest)
        if kind is POD and subresource == "log":
            return await self._log(request, self.store.get(POD, namespace, name), struck)
        if kind is POD and subresource == "eviction" and request.method == "POST":
            return await self._evict(request, namespace, name)
        raise answers.no_such_resource()

    async def _log(self, request: web.Request, pod: Obj, struck: list[ApiFault]) -> web.StreamResponse:
        options = LogOptions.read(request.query, pod["metadata"]["name"])
        found = find_container(self.cluster.kubelet, pod, options)
        pieces = _nothing() if found is None else stream(*found, options)
        return await send_stream(request, pieces, "text/plain", api_faults.cut_after(struck))

    async def _evict(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        pod = self.store.get(POD, namespace, name)
        body = orjson.loads(await request.read() or b"{}")
        evict(self.registry, pod, DeleteOptions.read(body.get("deleteOptions"), {}))
        return web.json_response(answers.success(code=201), status=201)

    def _address(self, kind: Kind, namespace: str, name: str) -> tuple[str, int]:
        found = re.fullmatch(r"(?:https?:)?([^:]+)(?::([^:]*))?", name)
        base, port = (found[1], found[2] or "") if found else (name, "")
        obj = self.store.get(kind, namespace, base)
        if kind is SERVICE:
            ports = [one for one in obj["spec"]["ports"] if port in ("", str(one["port"]), one.get("name"))]
            ready = endpoints(self.store, obj)
            if not ports or not ready:
                text = f'no endpoints available for service "{base}"'
                raise answers.ApiError(503, "ServiceUnavailable", text)
            return target(ready[0], ports[0])
        ip = (obj.get("status") or {}).get("podIP")
        if not ip:
            raise answers.bad_request("address not allowed")
        listed = [one["containerPort"] for c in obj["spec"]["containers"] for one in c.get("ports") or ()]
        return str(ip), int(port) if port else (listed or [80])[0]

    async def _proxy(
        self, request: web.Request, kind: Kind, namespace: str, name: str, rest: str
    ) -> web.StreamResponse:
        host, port = self._address(kind, namespace, name)
        query = f"?{request.query_string}" if request.query_string else ""
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
        try:
            async with self.cluster.session.request(
                request.method, f"http://{host}:{port}/{rest}{query}", data=await request.read(),
                headers=headers, allow_redirects=False,
            ) as there:  # fmt: skip
                shown = {key: there.headers[key] for key in ("Content-Type",) if key in there.headers}
                return web.Response(body=await there.read(), status=there.status, headers=shown)
        except aiohttp.ClientConnectorError as error:
            text = f"error trying to reach service: dial tcp {host}:{port}: connect: connection refused"
            raise answers.ApiError(503, "ServiceUnavailable", text) from error
        except (aiohttp.ClientError, OSError) as error:
            text = f"error trying to reach service: {error or 'EOF'}"
            raise answers.ApiError(503, "ServiceUnavailable", text) from error


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
