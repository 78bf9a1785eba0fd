"""The cluster as the launcher and the reaper see it: plain JSON objects by kind and name, in one namespace.

Belongs here: paths of the kinds we use, and what counts as success of each verb.
Does not belong here: repeating and time limits (``calls``), credentials (``connect``), what a pod's state means
(``diagnose``).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote

from accelbench_assets.launch.base import utc_now
from accelbench_assets.launch.kube import podlog
from accelbench_assets.launch.kube.calls import Calls, NoAnswer
from accelbench_assets.launch.kube.connect import open_access
from accelbench_assets.launch.kube.errors import KubeError, read_status, refusal
from accelbench_assets.launch.kube.naming import RUN_LABEL
from accelbench_assets.settings_groups import KubeSettings

if TYPE_CHECKING:
    from accelbench_assets.launch.probe import Reply

Object = dict[str, Any]
KINDS: Final[dict[str, tuple[str, str]]] = {
    "Namespace": ("v1", "namespaces"),
    "Node": ("v1", "nodes"),
    "Pod": ("v1", "pods"),
    "Service": ("v1", "services"),
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Event": ("v1", "events"),
    "Deployment": ("apps/v1", "deployments"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "Job": ("batch/v1", "jobs"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "NodeClaim": ("karpenter.sh/v1", "nodeclaims"),
}
"""Kind -> (apiVersion, resource)."""
_CLUSTER_WIDE = ("Namespace", "Node", "NodeClaim")
_PAGE = 500
# A Secret's content never enters this process: the API is asked for its metadata alone.
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Cluster:
    """One namespace of one cluster. Safe to use from several threads; nothing is asked before the first call.

    ``source`` says where the credentials came from: paths of kubeconfigs, or the pod's service account.

    Every call takes at most ``timeout_s`` a try and is repeated for ``retry_s`` where that is safe (429, 5xx,
    lost connections); both in seconds, ``retry_s`` may be given to a call. All raise :class:`KubeError` with the codes
    ``api_denied``, ``quota``, ``bad_config``, ``conflict``, ``api_unavailable``, ``no_cluster``.
    """

    def __init__(
        self,
        api: Any,
        namespace: str,
        *,
        source: str = "the caller",
        in_cluster: bool = False,
        complaints: Sequence[str] = (),
        timeout_s: float = 15.0,
        retry_s: float = 45.0,
    ) -> None:
        self.namespace = namespace
        self.source = source
        self.calls = Calls(api, timeout_s=timeout_s, retry_s=retry_s, complaints=complaints)
        self._in_cluster = in_cluster
        self._uid: str | None = None
        self._version: str | None = None

    @classmethod
    def connect(
        cls, kube: KubeSettings, *, agent: str = "accelbench", timeout_s: float = 15.0, retry_s: float = 45.0
    ) -> Cluster:
        """The cluster of *kube*; *agent* is the User-Agent. ``LaunchError``: ``missing_part``, ``no_cluster``."""
        access = open_access(kube, agent)
        return cls(
            access.api,
            kube.namespace,
            source=access.source,
            in_cluster=access.in_cluster,
            complaints=access.complaints,
            timeout_s=timeout_s,
            retry_s=retry_s,
        )

    # -- the cluster itself ----------------------------------------------------------------------------------

    def namespace_uid(self) -> str:
        """The cluster's identity; ``KubeError`` (``no_cluster``) when the namespace does not exist."""
        if self._uid is None:
            found = self.get("Namespace", self.namespace)
            if found is None:
                raise KubeError(
                    f"The namespace {self.namespace} does not exist in this cluster.",
                    code="no_cluster",
                    status=404,
                    reason="NotFound",
                    hint="Apply infra/ to the cluster, or set kube.namespace.",
                )
            self._uid = str(found["metadata"]["uid"])
        return self._uid

    def version(self) -> str:
        """``gitVersion`` of the API server."""
        if self._version is None:
            answer = self.calls.send("GET", "/version", "asking for the version")
            self._version = str(json.loads(answer.body).get("gitVersion") or "unknown")
        return self._version

    def emulated(self) -> bool:
        """Whether it is the test suite's cluster: what runs on it is simulated."""
        return "emulated" in self.version()

    def in_cluster(self) -> bool:
        """Whether this process is a pod of this cluster, by its service account."""
        return self._in_cluster

    def server_time(self) -> datetime:
        """The API server's time, at most about a second behind it."""
        if (known := self.calls.server_time()) is None:
            self.calls.send("GET", "/version", "asking for the time")
            known = self.calls.server_time()
        return known or utc_now()  # a server that says no time has none to differ from ours

    def can(self, verb: str, resource: str, group: str = "") -> bool:
        """Whether these credentials may *verb* *resource* (``pods/log``) of an API *group* in the namespace."""
        name, _, subresource = resource.partition("/")
        wanted = {"namespace": self.namespace, "verb": verb, "group": group, "resource": name}
        if subresource:
            wanted["subresource"] = subresource
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        }
        answer = self.calls.send(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "asking for our rights",
            body=body,
        )
        return bool((json.loads(answer.body).get("status") or {}).get("allowed"))

    # -- objects ---------------------------------------------------------------------------------------------

    def create(self, manifest: Mapping[str, Any], *, retry_s: float | None = None) -> Object:
        """Create an object; the created one. One of the same run under its name is what a lost answer left.

        Unknown fields are refused (``bad_config``), not dropped. ``conflict`` when the name is taken by another.
        """
        kind, name = str(manifest["kind"]), str(manifest["metadata"]["name"])
        doing = f"creating {kind} {name}"
        for tries_left in range(5, -1, -1):
            answer = self.calls.send(
                "POST",
                self._path(kind),
                doing,
                query=[("fieldValidation", "Strict")],
                body=dict(manifest),
                expect=(409,),
                retry_s=retry_s,
            )
            if answer.ok:
                break
            refused = refusal(409, answer.body, doing)
            found = self.get(kind, name, retry_s=retry_s)
            if found is not None:
                if found["metadata"].get("deletionTimestamp") or not _same_run(found, manifest):
                    raise refused
                return found
            if not tries_left:
                raise refused
            time.sleep(0.2)
        return _object(answer.body)

    def get(self, kind: str, name: str, *, retry_s: float | None = None) -> Object | None:
        """The object; ``None`` when it (or its namespace) does not exist. Of a Secret only the metadata."""
        answer = self.calls.send(
            "GET",
            self._path(kind, name),
            f"reading {kind} {name}",
            accept=_METADATA if kind == "Secret" else None,
            expect=(404,),
            retry_s=retry_s,
            repeat_conflict=True,
        )
        return _whole(_object(answer.body), kind) if answer.ok else None

    def list(
        self,
        kind: str,
        *,
        labels: str = "",
        fields: str = "",
        namespace: str | None = None,
        retry_s: float | None = None,
    ) -> list[Object]:
        """All objects of *kind* that match both selectors, in pages; each with its ``kind`` and ``apiVersion``. Of
        another *namespace* than ours where one is given.
        """
        selectors = [("labelSelector", labels), ("fieldSelector", fields)]
        base = [("limit", str(_PAGE)), *((name, value) for name, value in selectors if value)]
        found: list[Object] = []
        token = ""
        while True:
            answer = self.calls.send(
                "GET",
                self._path(kind, namespace=namespace),
                f"listing {KINDS[kind][1]}",
                query=[*base, ("continue", token)] if token else base,
                accept=_METADATA_LIST if kind == "Secret" else None,
                expect=(410,) if token else (),
                retry_s=retry_s,
                repeat_conflict=True,
            )
            if not answer.ok:  # the continuation grew too old: from the start
                found, token = [], ""
                continue
            page = _object(answer.body)
            found += (_whole(item, kind) for item in page.get("items") or ())
            token = str((page.get("metadata") or {}).get("continue") or "")
            if not token:
                return found

    def patch(
        self, kind: str, name: str, body: Mapping[str, Any], *, retry_s: float | None = None
    ) -> Object | None:
        """Merge *body* into the object (lists are replaced whole); the result, or ``None`` when it is gone."""
        answer = self.calls.send(
            "PATCH",
            self._path(kind, name),
            f"changing {kind} {name}",
            body=dict(body),
            content_type="application/merge-patch+json",
            expect=(404,),
            retry_s=retry_s,
            repeat_conflict=True,
        )
        return _object(answer.body) if answer.ok else None

    def delete(
        self, kind: str, name: str, *, grace_s: int | None = None, retry_s: float | None = None
    ) -> bool:
        """Delete with all it owns (propagation Background always: a Job's pods outlive it otherwise).

        *grace_s* 0 removes a pod from the API at once. False when it was not there.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        answer = self.calls.send(
            "DELETE",
            self._path(kind, name),
            f"deleting {kind} {name}",
            body=options,
            expect=(404,),
            retry_s=retry_s,
            repeat_conflict=True,
        )
        return answer.ok

    # -- pods ------------------------------------------------------------------------------------------------

    def log(
        self,
        pod: str,
        container: str,
        *,
        tail_lines: int | None = None,
        previous: bool = False,
        limit_bytes: int = 4 * 2**20,
    ) -> str:
        """The container's log as text; empty while (or when) there is none, or its node does not answer."""
        return podlog.read(self, pod, container, tail_lines, previous, limit_bytes)

    def follow_log(self, pod: str, container: str, *, stop: threading.Event | None = None) -> Iterator[str]:
        """Lines of the container's present run as they come, each once; waits while it is not yet started.

        Ends with the container, with its pod, soon after *stop* is set, or when the log cannot be had for ``retry_s``.
        A broken stream is taken up where it broke. Lines over 64 KiB come in pieces. Raises ``KubeError`` for a
        refusal only.
        """
        return podlog.follow(self, pod, container, stop or threading.Event())

    def proxy(
        self,
        pod: str,
        port: int,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout_s: float = 30.0,
    ) -> Reply:
        """One request to a pod's *port* through the API server; any status is a reply. Not repeated.

        Raises ``probe.Unreachable`` when the pod gives no answer, ``KubeError`` when the API refuses.
        """
        from accelbench_assets.launch.probe import Reply, Unreachable

        whole = f"{self._path('Pod', f'{pod}:{port}')}/proxy/{path.lstrip('/')}"
        where, _, query = whole.partition("?")
        try:
            answer = self.calls.once(
                method, where, query=parse_qsl(query), body=body, accept="*/*", timeout_s=timeout_s
            )
        except NoAnswer as error:
            raise Unreachable(f"{error} (through the API server)") from None
        if (told := read_status(answer.body)) and not answer.ok:  # the API server's own words, not the pod's
            if answer.status in (400, 401, 403):
                raise refusal(answer.status, answer.body, f"a request to pod {pod} by proxy")
            raise Unreachable(str(told.get("message") or f"HTTP {answer.status}"))
        return Reply(answer.status, answer.headers, answer.body)

    def path_of(self, kind: str, name: str, subresource: str) -> str:
        """The API path of an object's *subresource*."""
        return f"{self._path(kind, name)}/{subresource}"

    def _path(self, kind: str, name: str | None = None, namespace: str | None = None) -> str:
        version, resource = KINDS[kind]
        root = f"/api/{version}" if version == "v1" else f"/apis/{version}"
        where = quote(namespace or self.namespace, safe="")
        place = "" if kind in _CLUSTER_WIDE else f"/namespaces/{where}"
        return f"{root}{place}/{resource}" + (f"/{quote(name, safe=':')}" if name else "")


def _object(body: bytes) -> Object:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise KubeError(
            "The Kubernetes API sent something that is no object: a proxy may stand between.",
            code="api_unavailable",
        )
    return document


def _whole(item: Object, kind: str) -> Object:
    if kind == "Secret":  # a server that sends its content all the same
        item = {name: value for name, value in item.items() if name not in ("data", "stringData")}
    return {**item, "kind": kind, "apiVersion": KINDS[kind][0]}


def _same_run(found: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    wanted = (manifest["metadata"].get("labels") or {}).get(RUN_LABEL)
    return wanted is not None and (found["metadata"].get("labels") or {}).get(RUN_LABEL) == wanted
