"""Control of the emulation, for tests; no part of any real cluster.

Belongs here: ``/_faults``, ``/_nodes``, ``/_requests``, ``/_objects``, ``/_history``. Does not belong here: the
Kubernetes API (``api``).
"""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from tests.launch.kube import answers
from tests.launch.kube.api import Api, reply
from tests.launch.kube.kinds import NODE, name_of
from tests.launch.kube.node_specs import NodeSpec
from tests.launch.kube.selectors import label_test


class Control:
    """``GET``/``PUT /_faults``; ``GET``/``POST /_nodes`` with ``{"op": ..., "name": ...}``; ``GET /_requests``,
    ``/_objects?labelSelector=``; ``DELETE /_history``, ``/_requests``."""

    def __init__(self, api: Api) -> None:
        self.api, self.cluster = api, api.cluster

    async def handle(self, request: web.Request) -> web.Response:
        """The same token as the API."""
        if request.headers.get("Authorization") != f"Bearer {self.api.token}":
            return reply(answers.unauthorized().body(), 401)
        data = await request.read()
        try:
            return reply(
                self._answer(request.method, request.path, request.query, orjson.loads(data or b"null"))
            )
        except answers.ApiError as error:
            return reply(error.body(), error.code)

    def _answer(self, method: str, path: str, query: Any, body: Any) -> Any:
        match (method, path):
            case ("GET", "/_faults"):
                return self.cluster.faults.report()
            case ("PUT", "/_faults"):
                self.cluster.faults.load(body)
                self.cluster.wake()
                return self.cluster.faults.report()
            case ("GET", "/_requests"):
                return self.api.calls
            case ("DELETE", "/_requests"):
                self.api.calls.clear()
                return None
            case ("GET", "/_objects"):
                chosen = label_test(query.get("labelSelector"))
                return [obj for _, obj in self.cluster.store.everything() if chosen(obj)]
            case ("DELETE", "/_history"):
                return self.cluster.store.forget_history()
            case ("GET", "/_nodes"):
                return [name_of(node) for node in self.cluster.store.all(NODE)]
            case ("POST", "/_nodes"):
                return self._node(body)
        raise answers.no_such_resource()

    def _node(self, body: Any) -> Any:
        nodes, name = self.cluster.nodes, body.get("name", "")
        match body.get("op"):
            case "unready":
                nodes.lose(name, unknown_after_s=body.get("after_s"))
            case "ready":
                nodes.bring_back(name)
            case "drain":
                nodes.drain(name, body.get("reason") or "Underutilized")
            case "delete":
                nodes.forget(name)
            case "add":
                nodes.add(NodeSpec.read(body["node"]))
            case other:
                raise answers.bad_request(f"op {other!r} is none of unready, ready, drain, delete, add")
        self.cluster.wake()
        return {"ok": True}
