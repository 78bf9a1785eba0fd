"""Watches.

Belongs here: which changes a watcher sees and as what, where a watch begins, bookmarks. Does not belong here: HTTP
(``api``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.launch.kube import answers
from tests.launch.kube.kinds import Kind, Obj, namespace_of
from tests.launch.kube.selectors import Test
from tests.launch.kube.store import Change, Store

DEFAULT_TIMEOUT_S = 2400.0


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """``since`` ``None`` or 0: begin with what there is."""

    kind: Kind
    namespace: str | None
    labels: Test
    fields: Test
    since: int | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    bookmarks: bool = False
    initial: bool = False

    def sees(self, obj: Obj | None) -> bool:
        if obj is None or self.namespace not in (None, namespace_of(obj)):
            return False
        return self.labels(obj) and self.fields(obj)


def _told(options: WatchOptions, change: Change) -> Obj | None:
    """What the watcher hears of a change; leaving the selector is a deletion, entering it an addition."""
    if change.kind is not options.kind:
        return None
    now, before = options.sees(change.obj), options.sees(change.before)
    if change.type == "DELETED":
        return {"type": "DELETED", "object": change.obj} if now or before else None
    if now:
        return {"type": "MODIFIED" if before else "ADDED", "object": change.obj}
    return {"type": "DELETED", "object": change.obj} if before else None


def _bookmark(options: WatchOptions, version: int, *, initial: bool = False) -> Obj:
    meta: Obj = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    obj = {"kind": options.kind.name, "apiVersion": options.kind.api_version, "metadata": meta}
    return {"type": "BOOKMARK", "object": obj}


async def watch(store: Store, options: WatchOptions) -> AsyncIterator[Obj]:
    """Ends after ``timeout_s``; a version that is too old is one ERROR line and the end."""
    if options.since and options.since < store.oldest:
        yield {"type": "ERROR", "object": answers.expired(options.since, store.oldest).body()}
        return
    queue: asyncio.Queue[Change] = asyncio.Queue()
    stop = store.listen(queue.put_nowait)
    loop = asyncio.get_running_loop()
    end = loop.time() + options.timeout_s
    try:
        if options.since:
            backlog = [change for change in store.history if change.version > options.since]
            for change in backlog:
                if (told := _told(options, change)) is not None:
                    yield told
        else:
            version = store.version
            for obj in [one for one in store.all(options.kind, options.namespace) if options.sees(one)]:
                yield {"type": "ADDED", "object": obj}
            if options.initial:
                yield _bookmark(options, version, initial=True)
        while (left := end - loop.time()) > 0:
            try:
                change = await asyncio.wait_for(queue.get(), left)
            except TimeoutError:
                break
            if options.since and change.version <= options.since:
                continue  # a version from the future: silent until it is reached
            if (told := _told(options, change)) is not None:
                yield told
        if options.bookmarks:
            yield _bookmark(options, store.version)
    finally:
        stop()
