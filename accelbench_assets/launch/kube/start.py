"""From a cell to an ``Endpoint``: Service and Deployment made, replicas awaited, everything asked that is recorded.

Belongs here: the order of a start and the endpoint's parts. Does not belong here: waiting (``serving``), evidence
(``identity``), times (``phases``), taking it away again (``launch.eks``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accelbench_assets.engines.container import instance_of
from accelbench_assets.engines.registry import get_engine
from accelbench_assets.launch.base import (
    AttemptHold,
    Deadline,
    Endpoint,
    EventSink,
    Replica,
    ScrapeTarget,
    ServerSpec,
)
from accelbench_assets.launch.facts import base_facts, iso
from accelbench_assets.launch.kube import identity
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.follow import LogFollower
from accelbench_assets.launch.kube.look import Object, name_of, node_of, status_of
from accelbench_assets.launch.kube.loss import in_use, running_trouble
from accelbench_assets.launch.kube.phases import phase_facts, phases_of
from accelbench_assets.launch.kube.serving import ReadyServer, Wait
from accelbench_assets.launch.kube.watcher import Watcher
from accelbench_assets.launch.manifests import SERVER, owned, server_objects
from accelbench_assets.settings import Settings

_LOG_HEAD = 4 * 2**20
_NO_EVIDENCE = (
    "The servers' nodes are not shown to be EC2 instances of the cell's type (by providerID and label), so the result "
    "counts as simulated. Reading nodes needs a ClusterRole."
)


@dataclass(slots=True)
class Start:
    """One start of one cell's servers."""

    cluster: Cluster
    settings: Settings
    spec: ServerSpec
    anchor: Object
    hold: AttemptHold
    deadline: Deadline
    on_event: EventSink
    follower: LogFollower

    def endpoint(self, expires_at: datetime) -> Endpoint:
        """Create, wait, ask. Leaves what it made to the caller, also when it raises."""
        spec, cluster, kube = self.spec, self.cluster, self.settings.kube
        region, replicas = self.settings.region, spec.cell.deployment.replicas
        anchor, service, deployment = server_objects(spec, kube, expires_at=expires_at, region=region)
        submitted_at, started = cluster.server_time(), time.monotonic()
        cluster.patch("ConfigMap", name_of(anchor), {"data": anchor["data"]})
        service = cluster.create(owned(service, self.anchor))
        cluster.create(owned(deployment, self.anchor))
        owner = ("Deployment", name_of(deployment))
        watcher = Watcher(
            cluster, spec.run_id, "server", owner, SERVER, replicas, kube.poll_s, self.follower.path
        )
        model = spec.served_model_name or spec.cell.model
        wait = Wait(
            cluster,
            kube,
            model,
            replicas,
            watcher,
            self.follower,
            self.hold,
            self.deadline,
            self.on_event,
            started,
        )
        ready = wait.until_ready()
        nodes = _nodes(cluster, ready)
        identity.check_instances(spec, ready, nodes)
        emulated, aws = cluster.emulated(), identity.on_aws(spec, ready, nodes)
        origin = identity.origin(spec, ready, emulated=emulated, aws=aws)
        if not emulated and not aws:
            self.on_event("warning", _NO_EVIDENCE, {})
        facts = base_facts(spec, "eks") | {
            "origin": origin,
            "hardware": "observed",
            **identity.node_facts(spec, ready, nodes),
            **identity.engine_facts(spec, ready, deployment, SERVER),
            **self._phases(ready, nodes, watcher, submitted_at),
            "first_probe_at": iso(min(one.ready_at for one in ready)),
            "ready_at": iso(max(one.ready_at for one in ready)),
            "ready_s": round(max(one.ready_s for one in ready), 6),
        }
        facts["region"] = facts["region"] or region
        if None not in (facts["provision_s"], wait.bound_s):  # the cluster's clock is known to a second only
            facts["provision_s"] = round(min(facts["provision_s"], wait.bound_s), 6)
        text = f"{model} is ready after {facts['ready_s']:.1f} s"
        self.on_event("phase", text, {"ready_s": facts["ready_s"]})
        watcher.watch_nodes({node_of(one.pod) for one in ready})
        expected = in_use([one.pod for one in ready], SERVER)

        away = False  # the Kubernetes API, not the servers

        def check_alive() -> None:
            nonlocal away
            try:
                look = watcher.look(explain=watcher.blind)
            except KubeError as error:
                if error.code != "api_unavailable":
                    raise
                self.hold.check()  # how long it may be away is the Lease's to say
                if not away:
                    self.on_event("warning", f"The servers cannot be looked at for now: {error.message}", {})
                away = True
                return
            away = False
            self.follower.see(look.pods)
            trouble = running_trouble(look, SERVER, expected)
            if trouble is not None:
                self.hold.check()  # a cancelled or reaped run loses its pods, too
                raise trouble.error(look.logs.get(trouble.pod, ""))

        return Endpoint(
            model=model,
            replicas=_replicas(ready, service),
            facts=facts,
            read_metrics=dict,  # the generator reads the pages: see scrape
            check_alive=check_alive,
            supports_ignore_eos=all(one.probe.supports_ignore_eos for one in ready),
            scrape=self._scrape(ready),
        )

    def _phases(
        self,
        ready: Sequence[ReadyServer],
        nodes: Mapping[str, Object],
        watcher: Watcher,
        submitted_at: datetime,
    ) -> dict[str, Any]:
        engine = get_engine(self.spec.cell.engine)
        seen, said = [], []
        for one in ready:
            events = watcher.events_of(name_of(one.pod))
            seen.append(phases_of(one.pod, events, nodes.get(node_of(one.pod)), SERVER, submitted_at))
            said.append(engine.startup_durations(self._log_head(name_of(one.pod))))
        return phase_facts(seen, said)

    def _log_head(self, pod: str) -> str:
        """The log so far; what was followed of it where it cannot be read (its node may have rotated it away)."""
        try:
            text = self.cluster.log(pod, SERVER, limit_bytes=_LOG_HEAD)
        except KubeError:
            text = ""
        path = self.follower.path(pod)
        if text or path is None or not path.is_file():
            return text
        with path.open("rb") as log:
            return log.read(_LOG_HEAD).decode("utf-8", "replace")

    def _scrape(self, ready: Sequence[ReadyServer]) -> tuple[ScrapeTarget, ...]:
        """The servers' own pages and their nodes' exporters."""
        path, kube = get_engine(self.spec.cell.engine).metrics_path, self.settings.kube
        targets = [ScrapeTarget("engine", one.address, f"http://{one.address}{path}") for one in ready]
        neuron = instance_of(self.spec.cell).accelerator_kind == "neuron"
        pattern = kube.neuron_exporter if neuron else kube.gpu_exporter
        for one in ready if pattern else ():
            if ip := str(status_of(one.pod).get("hostIP") or ""):
                url = str(pattern).replace("{node_ip}", f"[{ip}]" if ":" in ip else ip)
                targets.append(ScrapeTarget("neuron" if neuron else "dcgm", one.address, url))
        return tuple(targets)


def _nodes(cluster: Cluster, ready: Sequence[ReadyServer]) -> dict[str, Object]:
    """The servers' nodes; without the right to read nodes there is no evidence of them."""
    found: dict[str, Object] = {}
    for name in {node_of(one.pod) for one in ready}:
        try:
            if (node := cluster.get("Node", name)) is not None:
                found[name] = node
        except KubeError as error:
            if error.code != "api_denied":
                raise
    return found


def _replicas(ready: Sequence[ReadyServer], service: Object) -> tuple[Replica, ...]:
    """One replica by its Service; several by their pods, for a Service picks one a connection at random."""
    address = str((service.get("spec") or {}).get("clusterIP") or "")
    if len(ready) == 1 and address not in ("", "None"):
        host = f"[{address}]" if ":" in address else address
        return (Replica(ready[0].address, f"http://{host}:{service['spec']['ports'][0]['port']}"),)
    return tuple(Replica(one.address, f"http://{one.address}") for one in ready)
