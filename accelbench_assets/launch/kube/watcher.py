"""Looks at a run's pods: fetches what ``diagnose`` and ``phases`` need, and no more often than it changes.

Belongs here: which objects are asked for, when, and what is done without where reading them is not allowed.
Does not belong here: what they mean (``diagnose``, ``loss``, ``phases``), waiting (``serving``, ``driving``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from accelbench_assets.launch.kube.claims import ClaimReader
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.look import (
    Claim,
    Look,
    Object,
    container_status,
    is_ready,
    name_of,
    node_of,
    terminated,
)
from accelbench_assets.launch.kube.naming import base_name, selector
from accelbench_assets.launch.logs import tail

NODES_EVERY_POLLS = 5
EVENTS_EVERY_POLLS = 3
LOG_LINES = 200


class Watcher:
    """Looks at the pods of one component of a run. *poll_s* is the pause of its user, which scales the rest."""

    def __init__(
        self,
        cluster: Cluster,
        run_id: str,
        component: str,
        owner: tuple[str, str],
        container: str,
        wanted: int,
        poll_s: float,
        log_file: Callable[[str], Path | None] = lambda pod: None,
    ) -> None:
        self.cluster, self.container, self.wanted = cluster, container, wanted
        self._selector = selector(run_id, component)
        self._prefix = base_name(run_id)
        self._owner = owner
        self._poll_s = poll_s
        self._log_file = log_file
        self._nodes: dict[str, Object | None] = {}
        self._nodes_at = self._events_at = 0.0
        self._events: list[Object] = []
        self._claims: Sequence[Claim] = ()
        self._ordered = ClaimReader(cluster)
        self._logs: dict[tuple[str, int], str] = {}
        self._denied: set[str] = set()

    def look(self, *, explain: bool = True) -> Look:
        """What there is now. With *explain*, events of pods that are not ready are read as well."""
        pods = self.cluster.list("Pod", labels=self._selector)
        kind, name = self._owner
        few = len(pods) < self.wanted
        owner = self.cluster.get(kind, name) if few or kind == "Job" else None
        if explain and (few or not all(is_ready(pod) for pod in pods)):
            self._read_events(pods, few)
        return Look(
            pods=pods,
            now=self.cluster.server_time(),
            owner=owner,
            wanted=self.wanted,
            events=self._events,
            nodes=self._read_nodes({node_of(pod) for pod in pods} - {""}),
            logs={name_of(pod): log for pod in pods if (log := self._last_log(pod))},
            claims=self._claims,
        )

    @property
    def blind(self) -> bool:
        """Whether nodes may not be read, so that only events tell of their loss."""
        return "Node" in self._denied

    def watch_nodes(self, names: set[str]) -> None:
        """Look at these nodes from now on, even when their pods are gone."""
        for name in names:
            self._nodes.setdefault(name, {})

    def events_of(self, pod: str) -> list[Object]:
        """All events about one pod; none where they may not be read."""
        return self._allowed("Event", f"involvedObject.name={pod}")

    def _read_events(self, pods: Sequence[Object], few: bool) -> None:
        now = time.monotonic()
        if now - self._events_at < EVENTS_EVERY_POLLS * self._poll_s:
            return
        self._events_at = now
        found: list[Object] = []
        for pod in pods:
            if not is_ready(pod):
                found += self.events_of(name_of(pod))
        if few:
            for reason in ("FailedCreate", "SuccessfulCreate"):
                refused = self._allowed("Event", f"reason={reason}")
                found += [e for e in refused if name_of(e.get("involvedObject")).startswith(self._prefix)]
        self._events = found
        if not all(node_of(pod) for pod in pods):
            self._claims = self._ordered.read(found)

    def _allowed(self, kind: str, fields: str) -> list[Object]:
        if kind in self._denied:
            return []
        try:
            return list(self.cluster.list(kind, fields=fields))
        except KubeError as error:
            if error.code != "api_denied":
                raise
            self._denied.add(kind)
            return []

    def _read_nodes(self, names: set[str]) -> dict[str, Object | None]:
        """The nodes by name; those that may not be read are left out."""
        if "Node" in self._denied:
            return {}
        now = time.monotonic()
        stale = now - self._nodes_at >= NODES_EVERY_POLLS * self._poll_s
        if stale:
            self._nodes_at = now
        for name in names | set(self._nodes):
            if not stale and self._nodes.get(name):
                continue
            try:
                self._nodes[name] = self.cluster.get("Node", name)
            except KubeError as error:
                if error.code != "api_denied":
                    raise
                self._denied.add("Node")
                return {}
        return dict(self._nodes)

    def _last_log(self, pod: Object) -> str:
        """The last lines of a container that ended, this time or the time before."""
        status = container_status(pod, self.container)
        if not terminated(status):
            return ""
        name, run = name_of(pod), int(status.get("restartCount") or 0)
        if (name, run) not in self._logs:
            over = bool((status.get("state") or {}).get("terminated"))
            self._logs[name, run] = self._log_of(name, previous=not over)
        return self._logs[name, run]

    def _log_of(self, pod: str, *, previous: bool) -> str:
        try:
            text = self.cluster.log(pod, self.container, tail_lines=LOG_LINES, previous=previous)
        except KubeError:  # no log explains less, and must not hide what is known
            text = ""
        path = self._log_file(pod)
        return text or (tail(path, LOG_LINES) if path is not None else "")
