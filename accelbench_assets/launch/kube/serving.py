"""Waits until every replica of a server is ready and has answered a real completion, or says why not.

Belongs here: the order of waiting, its time limits, new pods where a new pod helps, the probe.
Does not belong here: what a state means (``diagnose``), creating and removing objects (``launch.eks``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from accelbench_assets.budget.base import NODE_IDLE_S, REPLACED_NODES
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import AttemptHold, Deadline, EventSink, utc_now
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.diagnose import starting_trouble
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.follow import LogFollower
from accelbench_assets.launch.kube.look import (
    Look,
    Object,
    is_leaving,
    is_over,
    is_ready,
    name_of,
    node_of,
    status_of,
    uid_of,
)
from accelbench_assets.launch.kube.loss import lost
from accelbench_assets.launch.kube.phases import ORDER, WAITING_FOR_NODE, phase_of
from accelbench_assets.launch.kube.trouble import Trouble
from accelbench_assets.launch.kube.watcher import Watcher
from accelbench_assets.launch.logs import tail
from accelbench_assets.launch.probe import Probe, Reply, Server, Unreachable, try_completion
from accelbench_assets.settings_groups import KubeSettings

PROBE_TIMEOUT_S = 60.0
PORT = 8000


@dataclass(frozen=True, slots=True)
class ProxiedServer(Server):
    """A pod's server reached through the API server, for an orchestrator outside of the pods' network."""

    cluster: Cluster | None = None
    pod: str = ""
    port: int = PORT

    def request(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, timeout_s: float
    ) -> Reply:
        """As ``Server.request``."""
        assert self.cluster is not None
        try:
            return self.cluster.proxy(self.pod, self.port, method, path, body, timeout_s)
        except KubeError as error:
            if error.code == "api_denied":
                raise
            raise Unreachable(error.message) from None


@dataclass(slots=True)
class ReadyServer:
    """One replica that has answered. ``address`` is its pod's; ``ready_s`` counts from the submission."""

    pod: Object
    address: str
    server: Server
    probe: Probe
    ready_at: datetime
    ready_s: float


@dataclass(slots=True)
class Wait:
    """What waiting needs to know; ``started`` is the monotonic time of the submission."""

    cluster: Cluster
    kube: KubeSettings
    model: str
    replicas: int
    watcher: Watcher
    follower: LogFollower
    hold: AttemptHold
    deadline: Deadline
    on_event: EventSink
    started: float
    bound_at: float | None = None
    unbound_at: float | None = None
    on_node: dict[str, Object] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    taken: Trouble | None = None
    replaced: int = 0
    phase: str = ""
    last: str = "no answer yet"
    seen: Trouble | None = None
    answered: dict[str, ReadyServer] = field(default_factory=dict)

    def until_ready(self) -> list[ReadyServer]:
        """The replicas, in order of their addresses. Raises ``LaunchError``, ``DeadlineExceeded``."""
        while True:
            self.hold.check()
            self.deadline.check("waiting for the model server")
            look = self.watcher.look()
            self.follower.see(look.pods)
            self._judge(look)
            live = [pod for pod in look.pods if not is_leaving(pod) and not is_over(pod)]
            self._tell(live)
            self._see_taken(look, live)
            bound = len(live) >= self.replicas and all(node_of(pod) for pod in live)
            self.bound_at = (self.bound_at or time.monotonic()) if bound else None
            self._see_nodes(look)
            ready = [pod for pod in live if is_ready(pod)]
            if len(ready) >= self.replicas:
                for pod in ready[: self.replicas]:
                    self._probe(pod)
                done = [self.answered[uid] for pod in ready if (uid := uid_of(pod)) in self.answered]
                if len(done) >= self.replicas:
                    return sorted(done[: self.replicas], key=lambda one: one.address)
            self._check_limits(look, live)
            time.sleep(self.kube.poll_s)

    @property
    def bound_s(self) -> float | None:
        """Seconds from the submission until every replica was seen to have a node."""
        return None if self.bound_at is None else self.bound_at - self.started

    def _judge(self, look: Look) -> None:
        trouble = starting_trouble(look, self.watcher.container)
        self.seen = trouble
        if trouble is None or not trouble.certain:
            return
        if not trouble.retryable or self.replaced >= REPLACED_NODES or not trouble.pod:
            raise self._failure(trouble, look)
        self.replaced += 1
        self.taken, self.unbound_at = trouble, time.monotonic()
        text = f"{trouble.error().message} A new pod takes its place."
        self.on_event("warning", text, {"pod": trouble.pod})
        self.cluster.delete("Pod", trouble.pod, grace_s=0)  # its kubelet cannot confirm anything

    def _see_taken(self, look: Look, live: list[Object]) -> None:
        """Remember who had a node and lost it again: the time for a node starts anew, and its lack is not the cause."""
        self.on_node |= {uid_of(pod): pod for pod in look.pods if node_of(pod)}
        here = {uid_of(pod) for pod in live}
        gone = {uid: pod for uid, pod in self.on_node.items() if uid not in here and uid not in self.left}
        self.left |= gone.keys()
        for pod in gone.values():
            found = lost(pod, look)
            if found is None and is_over(pod) and not is_leaving(pod):
                continue  # its node's kubelet refused it
            text = f"Pod {name_of(pod)} was deleted while it was starting on node {node_of(pod)}."
            if self.taken is None or self.taken.pod != name_of(pod):
                self.taken = found or Trouble("evicted", text, retryable=True, pod=name_of(pod))
                self.unbound_at = time.monotonic()

    def _see_nodes(self, look: Look) -> None:
        """Reckon the nodes that are paid for; end a start for which more were rented than money was put aside for."""
        launched = [claim.launched_at for claim in look.claims if claim.launched_at is not None]
        if self.hold.billed_since is None and launched:  # a machine costs money before it is a node
            ago_s = max(0.0, (look.now - min(launched)).total_seconds())
            self.hold.billed_since = max(self.started, time.monotonic() - ago_s)
        for name in {node_of(pod) for pod in look.pods} - {"", *self.nodes}:
            self.nodes.add(name)
            if self.hold.billed_since is None:
                self.hold.billed_since = time.monotonic()
            if len(self.nodes) > self.replicas:  # the one it replaces idles as long as any other
                self.hold.billed_since -= NODE_IDLE_S / self.replicas
        if len(self.nodes) > self.replicas + REPLACED_NODES:
            why = self.taken or Trouble("node_lost", "Its pods were moved from node to node.")
            lost_nodes = len(self.nodes) - self.replicas
            text = (
                f"{why.text} This start has lost {lost_nodes} nodes; money is put aside for {REPLACED_NODES}."
            )
            raise self._failure(replace(why, text=text), look)

    def _failure(self, trouble: Trouble, look: Look) -> LaunchError:
        path = self.follower.path(trouble.pod)
        log = look.logs.get(trouble.pod) or (tail(path) if path is not None else "")
        return trouble.error(log)

    def _tell(self, live: list[Object]) -> None:
        """Say when the slowest replica has come to another phase."""
        phases = [phase_of(pod, self.watcher.container) for pod in live]
        phase = min(phases, key=ORDER.index) if len(live) >= self.replicas else WAITING_FOR_NODE
        if phase != self.phase:
            self.phase = phase
            seconds = time.monotonic() - self.started
            self.on_event("phase", f"{phase} ({seconds:.0f} s)", {"phase": phase, "pods": len(live)})

    def _check_limits(self, look: Look, live: list[Object]) -> None:
        """The two limits of a start: until all pods have a node, and from then until all answer."""
        now = time.monotonic()
        if self.bound_at is None:
            limit = self.kube.provisioning_s
            if now - (self.unbound_at or self.started) > limit:
                text = f"No node took the model server within {limit:.0f} s."
                trouble = self.seen or Trouble("unschedulable", text, certain=False)
                if self.taken is not None and trouble.code in ("no_capacity", "unschedulable"):
                    trouble = replace(self.taken, text=f"{self.taken.text} {trouble.text}")
                raise self._failure(trouble, look)
            return
        if now - self.bound_at > self.kube.start_s:
            slow = [pod for pod in live if uid_of(pod) not in self.answered]
            pod = name_of(slow[0]) if slow else ""
            state = "its readiness probe fails" if slow and not is_ready(slow[0]) else self.last
            text = f"The model server in pod {pod} was not ready after {self.kube.start_s:.0f} s ({state})."
            raise self._failure(self.seen or Trouble("not_ready", text, certain=False, pod=pod), look)

    def _probe(self, pod: Object) -> None:
        uid = uid_of(pod)
        if uid in self.answered:
            return
        server = server_of(self.cluster, self.kube, pod)
        try:
            timeout_s = min(PROBE_TIMEOUT_S, self.kube.start_s, self.deadline.remaining() + 0.1)
            probe = try_completion(server, self.model, timeout_s=timeout_s)
        except Unreachable as error:
            self.last = str(error)
            return
        if probe.ok:
            seconds = time.monotonic() - self.started
            address = address_of(pod)
            self.answered[uid] = ReadyServer(pod, address, server, probe, utc_now(), seconds)
            return
        self.last = f"status {probe.reply.status}: {server.scrub(probe.reply.text)[:200]}"
        if 400 <= probe.reply.status < 500 and probe.reply.status not in (408, 429):
            raise LaunchError(
                f"The model server in pod {name_of(pod)} refuses a completion with {self.last}.",
                code="not_ready",
            )


def address_of(pod: Object) -> str:
    """``IP:port`` of the pod's server."""
    ip = str(status_of(pod).get("podIP") or "")
    return f"[{ip}]:{PORT}" if ":" in ip else f"{ip}:{PORT}"


def server_of(cluster: Cluster, kube: KubeSettings, pod: Object) -> Server:
    """How this process reaches the pod's server; ``kube.probe`` decides, ``auto`` by where this process runs."""
    direct = kube.probe == "direct" or (kube.probe == "auto" and (cluster.in_cluster() or cluster.emulated()))
    url = f"http://{address_of(pod)}"
    return Server(url) if direct else ProxiedServer(url, cluster=cluster, pod=name_of(pod))
