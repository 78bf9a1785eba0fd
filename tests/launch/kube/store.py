"""Objects by kind, namespace and name, with a version that grows by one at every change.

Belongs here: reading, writing, the history that watches replay. Does not belong here: whether a write is allowed
(``registry``), what follows from it (controllers).

An object in the store is never changed in place: whoever has one keeps what it read. Writers build a new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.launch.kube import answers
from tests.launch.kube.kinds import Kind, Obj, name_of, namespace_of

HISTORY = 20_000


class Change(NamedTuple):
    """``type`` is ADDED, MODIFIED or DELETED; ``before`` the object as it was, if it was."""

    version: int
    type: str
    kind: Kind
    obj: Obj
    before: Obj | None


class Store:
    """All objects. Not thread-safe: one event loop owns it."""

    def __init__(self) -> None:
        self.version = 100
        self.oldest = self.version  # changes after this one can be replayed
        self.history: deque[Change] = deque()
        self._objects: dict[Kind, dict[tuple[str | None, str], Obj]] = {}
        self._listeners: list[Callable[[Change], None]] = []

    def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call *listener* at every change, until the returned function is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def find(self, kind: Kind, namespace: str | None, name: str) -> Obj | None:
        return self._objects.get(kind, {}).get((namespace if kind.namespaced else None, name))

    def get(self, kind: Kind, namespace: str | None, name: str) -> Obj:
        """Raises ``ApiError`` 404."""
        found = self.find(kind, namespace, name)
        if found is None:
            raise answers.not_found(kind, name)
        return found

    def current(self, kind: Kind, obj: Obj) -> Obj | None:
        """The newest state of the same object (by uid), ``None`` if it is gone."""
        found = self.find(kind, namespace_of(obj), name_of(obj))
        return found if found and found["metadata"]["uid"] == obj["metadata"]["uid"] else None

    def all(self, kind: Kind, namespace: str | None = None) -> list[Obj]:
        """In order of name; those of one namespace if given."""
        held = self._objects.get(kind, {})
        keys = sorted(key for key in held if namespace in (None, key[0]) or not kind.namespaced)
        return [held[key] for key in keys]

    def everything(self) -> Iterator[tuple[Kind, Obj]]:
        for kind, held in list(self._objects.items()):
            for obj in list(held.values()):
                yield kind, obj

    def put(self, kind: Kind, obj: Obj) -> Obj:
        """Add or replace; the stored object has the new ``resourceVersion``."""
        key = (namespace_of(obj), name_of(obj))
        before = self._objects.setdefault(kind, {}).get(key)
        stored = self._stamped(obj)
        self._objects[kind][key] = stored
        self._tell("ADDED" if before is None else "MODIFIED", kind, stored, before)
        return stored

    def drop(self, kind: Kind, obj: Obj) -> None:
        before = self._objects.get(kind, {}).pop((namespace_of(obj), name_of(obj)), None)
        if before is not None:
            self._tell("DELETED", kind, self._stamped(before), before)

    def forget_history(self) -> None:
        """As compaction does: a watch from an older version gets 410."""
        self.history.clear()
        self.oldest = self.version

    def _stamped(self, obj: Obj) -> Obj:
        self.version += 1
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}

    def _tell(self, change: str, kind: Kind, obj: Obj, before: Obj | None) -> None:
        told = Change(self.version, change, kind, obj, before)
        self.history.append(told)
        if len(self.history) > HISTORY:
            self.oldest = self.history.popleft().version
        for listener in list(self._listeners):
            listener(told)
