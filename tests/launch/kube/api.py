"""The API server: HTTP in front of the registry.

Belongs here: paths, verbs, authentication, faults, the record of calls. Does not belong here: rules about objects
(``registry``, ``deletion``), subresources of pods (``pod_api``), control of the emulation (``control``).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from tests.launch.kube import answers, api_faults, discovery, strict
from tests.launch.kube.cluster import Cluster
from tests.launch.kube.deletion import DeleteOptions, delete
from tests.launch.kube.faults import ApiFault, Call
from tests.launch.kube.kinds import BY_PLURAL, NAMESPACE, Kind, Obj, name_of, namespace_of
from tests.launch.kube.pod_api import PodApi
from tests.launch.kube.selectors import field_test, label_test
from tests.launch.kube.streaming import send_stream
from tests.launch.kube.watching import WatchOptions, watch

BODY_LIMIT = 3 << 20
TRUE = ("1", "true", "True")


@dataclass(frozen=True, slots=True)
class Target:
    """What a path is about."""

    kind: Kind
    namespace: str | None
    name: str = ""
    subresource: str = ""
    rest: str = ""


def parse_path(path: str) -> Target:
    """Raises ``ApiError`` 404 for a path that names no resource."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and parts[1:2] == ["v1"]:
        group, parts = "", parts[2:]
    elif parts[0] == "apis" and len(parts) > 2 and parts[2] == "v1":
        group, parts = parts[1], parts[3:]
    else:
        raise answers.no_such_resource()
    namespace = None
    if parts[:1] == ["namespaces"] and len(parts) > 2 and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    kind = BY_PLURAL.get((group, parts[0])) if parts else None
    if kind is None or (namespace is not None and not kind.namespaced):
        raise answers.no_such_resource()
    name, subresource = (parts[1:2] or [""])[0], (parts[2:3] or [""])[0]
    return Target(kind, namespace, name, subresource, "/".join(parts[3:]))


def verb_of(method: str, target: Target, query: Any) -> str:
    """As RBAC and fault plans name it; log, proxy and evict besides."""
    special = {"log": "log", "proxy": "proxy", "eviction": "evict"}.get(target.subresource)
    if special:
        return special
    if method == "GET" and not target.name:
        return "watch" if query.get("watch") in TRUE else "list"
    if method == "DELETE" and not target.name:
        return "deletecollection"
    return {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(
        method, method
    )


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers=headers
    )


class Api:
    """One request at a time through ``handle``."""

    def __init__(self, cluster: Cluster, token: str) -> None:
        self.cluster, self.token = cluster, token
        self.store, self.registry = cluster.store, cluster.registry
        self.pods = PodApi(cluster)
        self.calls: list[dict[str, Any]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any path; refusals become ``Status`` bodies."""
        began = time.monotonic()
        note: dict[str, Any] = {"status": 0}
        try:
            response = await self._answer(request, note)
            note["status"] = response.status
        except answers.ApiError as error:
            note["status"] = error.code
            response = reply(error.body(), error.code, error.headers)
        except api_faults.Dropped:
            response = web.Response(status=499)
            if request.transport is not None:
                request.transport.abort()
        finally:
            if "verb" in note:
                note["ms"] = round((time.monotonic() - began) * 1000, 1)
        return response

    async def _answer(self, request: web.Request, note: dict[str, Any]) -> web.StreamResponse:
        given = request.headers.get("Authorization")
        if (page := discovery.public(request.path)) is not None:
            return reply(page)
        if given is None:
            method = request.method.lower()
            text = f'forbidden: User "system:anonymous" cannot {method} path "{request.path}"'
            raise answers.ApiError(403, "Forbidden", text)
        if given != f"Bearer {self.token}":
            raise answers.unauthorized()
        if (page := discovery.page(request.path)) is not None:
            return reply(page)
        if request.path.endswith("/selfsubjectaccessreviews"):
            return reply(discovery.review(await self._body(request), self.cluster.faults), 201)
        target = parse_path(request.path)
        verb = verb_of(request.method, target, request.query)
        resource = target.kind.plural + (f"/{target.subresource}" if target.subresource == "status" else "")
        call = Call(
            verb, resource, target.name, target.namespace or "", request.headers.get("User-Agent", "")
        )
        note |= {
            "n": len(self.calls) + 1, "verb": verb, "resource": resource, "name": target.name,
            "namespace": call.namespace, "user_agent": call.user_agent, "at": time.time(),
        }  # fmt: skip
        self.calls.append(note)
        struck = self.cluster.faults.strikes(call)
        await api_faults.before(
            struck, request, verb, target.kind, target.name, target.namespace, target.subresource
        )
        response = await self._dispatch(request, target, verb, struck)
        await api_faults.after(struck, request)
        return response

    async def _body(self, request: web.Request) -> Any:
        data = await request.read()
        if len(data) > BODY_LIMIT:
            text = f"Request entity too large: limit is {BODY_LIMIT}"
            raise answers.ApiError(413, "RequestEntityTooLarge", text)
        try:
            return orjson.loads(data) if data.strip() else None
        except orjson.JSONDecodeError as error:
            raise answers.bad_request(f"the object provided is unrecognized: {error}") from error

    async def _dispatch(
        self, request: web.Request, target: Target, verb: str, struck: list[ApiFault]
    ) -> web.StreamResponse:
        kind, namespace, name = target.kind, target.namespace, target.name
        if target.subresource not in ("", "status"):
            return await self.pods.handle(
                request, target.kind, str(namespace), name, target.subresource, target.rest, struck
            )
        if verb == "watch":
            return await self._watch(request, target, struck)
        if verb == "list":
            return reply(self._list(target, request.query))
        if verb == "get":
            return reply(self.store.get(kind, namespace, name))
        body = await self._body(request)
        if verb in ("create", "update") and request.query.get("fieldValidation") == "Strict":
            await asyncio.to_thread(strict.check, kind, body)
        if verb == "create":
            dry = "All" in request.query.getall("dryRun", [])
            return reply(self.registry.create(kind, namespace, body, dry_run=dry), 201)
        if verb == "update":
            return reply(self.registry.update(kind, namespace, name, body, target.subresource))
        if verb == "patch":
            return reply(
                self.registry.patch(kind, namespace, name, request.content_type, body, target.subresource)
            )
        options = DeleteOptions.read(body, request.query)
        if verb == "delete":
            deleted = delete(self.registry, kind, namespace, name, options)
            warning = {"Warning": f'299 - "{deleted.warning}"'} if deleted.warning else None
            return reply(deleted.body, 200, warning)
        if verb == "deletecollection" and kind is not NAMESPACE:
            listed = self._list(target, request.query)
            for obj in self._chosen(target, request.query):
                delete(self.registry, kind, namespace_of(obj), name_of(obj), options)
            return reply(listed)
        raise answers.method_not_allowed()

    def _chosen(self, target: Target, query: Any) -> list[Obj]:
        labels = label_test(query.get("labelSelector"))
        fields = field_test(target.kind, query.get("fieldSelector"))
        return [one for one in self.store.all(target.kind, target.namespace) if labels(one) and fields(one)]

    def _list(self, target: Target, query: Any) -> Obj:
        """Items carry neither kind nor apiVersion, as in real lists; pages by ``limit`` and ``continue``."""
        items = self._chosen(target, query)
        meta: Obj = {"resourceVersion": str(self.store.version)}
        if query.get("continue"):
            try:
                after = tuple(base64.urlsafe_b64decode(query["continue"]).decode().split("/"))
            except (binascii.Error, ValueError) as error:
                raise answers.bad_request(f"invalid continue token: {error}") from error
            items = [one for one in items if (namespace_of(one) or "", name_of(one)) > after]
        limit = int(query.get("limit") or 0)
        if limit and len(items) > limit:
            last = items[limit - 1]
            token = f"{namespace_of(last) or ''}/{name_of(last)}".encode()
            meta["continue"] = base64.urlsafe_b64encode(token).decode()
            meta["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        bare = [
            {key: value for key, value in one.items() if key not in ("kind", "apiVersion")} for one in items
        ]
        kind = target.kind
        return {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": meta, "items": bare}

    async def _watch(
        self, request: web.Request, target: Target, struck: list[ApiFault]
    ) -> web.StreamResponse:
        query = request.query
        version = query.get("resourceVersion") or "0"
        if not version.isdecimal():
            raise answers.ApiError(500, None, f'strconv.ParseUint: parsing "{version}": invalid syntax')
        options = WatchOptions(
            target.kind,
            target.namespace,
            label_test(query.get("labelSelector")),
            field_test(target.kind, query.get("fieldSelector")),
            since=1 if api_faults.is_expired(struck) else int(version),
            **({"timeout_s": float(query["timeoutSeconds"])} if query.get("timeoutSeconds") else {}),
            bookmarks=query.get("allowWatchBookmarks") in TRUE,
            initial=query.get("sendInitialEvents") in TRUE,
        )
        lines = (orjson.dumps(told) + b"\n" async for told in watch(self.store, options))
        return await send_stream(request, lines, "application/json", api_faults.cut_after(struck))
