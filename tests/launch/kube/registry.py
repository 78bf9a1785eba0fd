"""Writes to the store under the API's rules: create, update, patch; one way in for clients and controllers.

Belongs here: the order of checks, metadata that only the server sets, optimistic locking. Does not belong here:
HTTP (``api``), deletion (``deletion``).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any

from tests.launch.kube import answers
from tests.launch.kube.checks import Checker, check_update
from tests.launch.kube.decode import Decoder
from tests.launch.kube.defaults import fill, first_status
from tests.launch.kube.kinds import (
    CONFIG_MAP,
    NAMESPACE,
    POD,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
    Obj,
    is_deleting,
    name_of,
)
from tests.launch.kube.moments import stamp
from tests.launch.kube.patches import apply_patch
from tests.launch.kube.quota import check_account, check_quota
from tests.launch.kube.store import Store

LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_SERVER_SET = (
    "uid",
    "creationTimestamp",
    "namespace",
    "name",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


def suffix(length: int = 5) -> str:
    """The random end of a generated name."""
    return "".join(random.choices(LETTERS, k=length))


class Registry:
    """``service_address`` gives a new cluster address; ``admission`` may refuse an object (faults do)."""

    def __init__(self, store: Store, service_address: Callable[[], str]) -> None:
        self.store = store
        self.admission: list[Callable[[Kind, Obj], None]] = []
        self._service_address = service_address

    def create(self, kind: Kind, namespace: str | None, body: Any, *, dry_run: bool = False) -> Obj:
        """Raises ``ApiError`` 400, 403, 404 (namespace), 409, 422, or 500 for a set resourceVersion."""
        obj = Decoder(kind).read(body)
        meta = obj["metadata"] = self._new_metadata(kind, namespace, obj["metadata"])
        status = first_status(kind)
        obj.pop("status", None)
        if status is not None:
            obj["status"] = status
        obj = fill(kind, obj)
        Checker(kind, obj).check()
        if (there := self.store.find(kind, meta.get("namespace"), meta["name"])) is not None:
            raise answers.already_exists(kind, meta["name"], deleting=is_deleting(there))
        for admit in self.admission:
            admit(kind, obj)
        if kind is POD:
            check_account(self.store, obj)
        if kind.namespaced:
            check_quota(self.store, kind, obj)
        if dry_run:
            return obj
        if kind is SERVICE and not obj["spec"].get("clusterIP"):
            address = self._service_address()
            obj["spec"] = {**obj["spec"], "clusterIP": address, "clusterIPs": [address]}
        stored = self.store.put(kind, obj)
        if kind is NAMESPACE:
            self._furnish(name_of(stored))
        return stored

    def _new_metadata(self, kind: Kind, namespace: str | None, meta: Obj) -> Obj:
        if meta.get("resourceVersion"):
            raise answers.ApiError(500, None, "resourceVersion should not be set on objects to be created")
        if kind.namespaced:
            if meta.get("namespace") not in (None, "", namespace):
                raise answers.bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            there = self.store.get(NAMESPACE, None, str(namespace))
            if is_deleting(there):
                why = f"unable to create new content in namespace {namespace} because it is being terminated"
                raise answers.forbidden(kind, str(meta.get("name", "")), why)
        name = meta.get("name") or (meta["generateName"] + suffix() if meta.get("generateName") else "")
        if not name:
            why = "Required value: name or generateName is required"
            raise answers.invalid(kind, "", "metadata.name", why)
        kept = {
            k: v
            for k, v in meta.items()
            if k not in (*_SERVER_SET, "generation", "selfLink") and v is not None
        }
        fresh: Obj = {**kept, "name": name, "uid": str(uuid.uuid4()), "creationTimestamp": stamp()}
        if kind.namespaced:
            fresh["namespace"] = namespace
        if kind.has_status and kind is not NAMESPACE:
            fresh["generation"] = 1
        return fresh

    def _furnish(self, namespace: str) -> None:
        """What a real cluster puts into each new namespace."""
        self.create(SERVICE_ACCOUNT, namespace, {"metadata": {"name": "default"}})
        self.create(CONFIG_MAP, namespace, {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": ""}})

    def update(self, kind: Kind, namespace: str | None, name: str, body: Any, subresource: str = "") -> Obj:
        """PUT. Raises ``ApiError`` 400, 404, 409, 422."""
        old = self.store.get(kind, namespace, name)
        new = Decoder(kind).read(body)
        meta = new["metadata"]
        if meta.get("name") not in (None, "", name):
            why = f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
            raise answers.bad_request(why)
        if meta.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise answers.conflict(kind, name)
        if meta.get("uid") not in (None, "", old["metadata"]["uid"]):
            known = old["metadata"]["uid"]
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {known}"
            raise answers.conflict(kind, name, f"StorageError: invalid object, Code: 4, {why}")
        return self.write(kind, old, new, subresource)

    def patch(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        content_type: str,
        patch: Any,
        subresource: str = "",
    ) -> Obj:
        """Raises ``ApiError`` 404, 409 (a stale resourceVersion in the patch), 415, 422."""
        old = self.store.get(kind, namespace, name)
        return self.update(kind, namespace, name, apply_patch(content_type, old, patch), subresource)

    def write(self, kind: Kind, old: Obj, new: Obj, subresource: str = "") -> Obj:
        """Store *new* in place of *old*; without a difference nothing happens."""
        if subresource == "status":
            return self._commit(kind, old, {**old, "status": new.get("status") or {}})
        kept = {key: old["metadata"][key] for key in _SERVER_SET if key in old["metadata"]}
        meta = {
            k: v
            for k, v in new["metadata"].items()
            if k not in (*_SERVER_SET, "generation") and v is not None
        }
        merged: Obj = {**new, "metadata": {**meta, **kept}}
        merged.pop("status", None)
        if "status" in old:
            merged["status"] = old["status"]
        if kind is SERVICE:
            fixed = {key: old["spec"][key] for key in ("clusterIP", "clusterIPs")}
            merged["spec"] = {**fixed, **(merged.get("spec") or {})}
        merged = fill(kind, merged)
        Checker(kind, merged).check()
        check_update(kind, old, merged)
        if "generation" in old["metadata"]:
            changed = merged.get("spec") != old.get("spec")
            merged["metadata"]["generation"] = old["metadata"]["generation"] + changed
        return self._commit(kind, old, merged)

    def _commit(self, kind: Kind, old: Obj, new: Obj) -> Obj:
        if _plain(old) == _plain(new):
            return old
        if is_deleting(new) and not new["metadata"].get("finalizers") and old["metadata"].get("finalizers"):
            self.store.put(kind, new)
            if kind is not POD or new["metadata"].get("deletionGracePeriodSeconds") == 0:
                self.store.drop(kind, new)
            return new
        return self.store.put(kind, new)

    # What controllers use: no decoding, no defaults; silent when the object is gone.

    def set_status(self, kind: Kind, obj: Obj, **fields: Any) -> Obj | None:
        """Replace fields of the status; a field that is ``None`` goes."""
        old = self.store.current(kind, obj)
        if old is None:
            return None
        merged = {**(old.get("status") or {}), **fields}
        status = {key: value for key, value in merged.items() if value is not None}
        return self._commit(kind, old, {**old, "status": status})

    def set_metadata(self, kind: Kind, obj: Obj, **fields: Any) -> Obj | None:
        """Replace fields of the metadata; a field that is ``None`` goes. May remove the object (finalizers)."""
        old = self.store.current(kind, obj)
        if old is None:
            return None
        meta = {key: value for key, value in {**old["metadata"], **fields}.items() if value is not None}
        return self._commit(kind, old, {**old, "metadata": meta})

    def set_spec(self, kind: Kind, obj: Obj, **fields: Any) -> Obj | None:
        old = self.store.current(kind, obj)
        return None if old is None else self._commit(kind, old, {**old, "spec": {**old["spec"], **fields}})


def _plain(obj: Obj) -> Obj:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": ""}}


__all__ = ["LETTERS", "Registry", "suffix"]
