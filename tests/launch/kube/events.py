"""Events, in the two forms that a real cluster writes.

Belongs here: making them, counting repeats. Does not belong here: their texts (whoever sees it happen).
"""

from __future__ import annotations

import uuid

from tests.launch.kube.kinds import EVENT, NAMESPACE, Kind, Obj, is_deleting, name_of, namespace_of, uid_of
from tests.launch.kube.moments import micro_stamp, stamp
from tests.launch.kube.store import Store


class Recorder:
    """Writes events straight into the store; one for an absent or terminating namespace is lost."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._seen: dict[tuple[str, ...], Obj] = {}

    def tell(
        self, kind: Kind, obj: Obj, type_: str, reason: str, message: str, component: str,
        *, container: str = "", host: str = "",
    ) -> None:  # fmt: skip
        """As the kubelet and most controllers write: with count and time stamps; repeats count up."""
        key = (uid_of(obj), reason, message, component, container)
        known = self.store.current(EVENT, self._seen[key]) if key in self._seen else None
        if known is not None:
            fresh = {**known, "count": known["count"] + 1, "lastTimestamp": stamp()}
            self._seen[key] = self.store.put(EVENT, fresh)
            return
        source = {"component": component, **({"host": host} if host else {})}
        about = self._about(kind, obj)
        if container:
            about["fieldPath"] = f"spec.containers{{{container}}}"
        body = {
            "involvedObject": about,
            "source": source,
            "count": 1,
            "firstTimestamp": stamp(),
            "lastTimestamp": stamp(),
            "eventTime": None,
            "reportingComponent": component,
            "reportingInstance": host,
        }
        stored = self._put(kind, obj, type_, reason, message, body)
        if stored is not None:
            self._seen[key] = stored

    def tell_new(
        self, kind: Kind, obj: Obj, type_: str, reason: str, message: str, component: str, action: str
    ) -> None:
        """As the scheduler writes: ``eventTime``, and neither count nor other time stamps."""
        body = {
            "involvedObject": self._about(kind, obj),
            "source": {},
            "firstTimestamp": None,
            "lastTimestamp": None,
            "eventTime": micro_stamp(),
            "reportingComponent": component,
            "reportingInstance": f"{component}-node1",
            "action": action,
        }
        self._put(kind, obj, type_, reason, message, body)

    def _about(self, kind: Kind, obj: Obj) -> Obj:
        about = {"kind": kind.name, "apiVersion": kind.api_version, "name": name_of(obj), "uid": uid_of(obj)}
        if namespace_of(obj):
            about["namespace"] = str(namespace_of(obj))
        return {**about, "resourceVersion": obj["metadata"].get("resourceVersion", "")}

    def _put(self, kind: Kind, obj: Obj, type_: str, reason: str, message: str, body: Obj) -> Obj | None:
        namespace = namespace_of(obj) or "default"
        place = self.store.find(NAMESPACE, None, namespace)
        if place is None or is_deleting(place):
            return None
        meta = {
            "name": f"{name_of(obj)}.{uuid.uuid4().hex[:16]}",
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": stamp(),
        }
        event = {"apiVersion": "v1", "kind": "Event", "metadata": meta, **body}
        return self.store.put(EVENT, {**event, "type": type_, "reason": reason, "message": message})
