"""The cluster: store, controllers and kubelets, and the loop that drives them.

Belongs here: putting the parts together, when they look. Does not belong here: HTTP (``api``, ``server``).
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.launch.kube.addresses import Addresses
from tests.launch.kube.answers import forbidden
from tests.launch.kube.collector import Collector
from tests.launch.kube.deployments import Deployments
from tests.launch.kube.events import Recorder
from tests.launch.kube.faults import Faults
from tests.launch.kube.images import Images
from tests.launch.kube.jobs import Jobs
from tests.launch.kube.kinds import EVENT, NAMESPACE, POD, QUOTA, SERVICE_ACCOUNT, Kind, Obj, name_of, uid_of
from tests.launch.kube.kubelet import Kubelet
from tests.launch.kube.moments import Pace
from tests.launch.kube.node_specs import DEFAULT_NODES, NodeSpec
from tests.launch.kube.nodes import Nodes
from tests.launch.kube.pod_run import Machine
from tests.launch.kube.quota import quota_status
from tests.launch.kube.registry import Registry
from tests.launch.kube.replica_sets import ReplicaSets
from tests.launch.kube.scheduler import Scheduler
from tests.launch.kube.services import Services
from tests.launch.kube.store import Change, Store

BENCH_NAMESPACE = "accelbench-bench"
BENCH_ACCOUNTS = ("accelbench-server", "accelbench-loadgen")
LOOK_EVERY_S = 0.1  # for what only time changes
SETTLE_S = 0.01  # several changes are looked at together


class Cluster:
    """Must be made inside a running event loop; ``run`` drives it until cancelled."""

    def __init__(
        self, root: Path, images: Mapping[str, Any], *, nodes: tuple[NodeSpec, ...] = DEFAULT_NODES,
        faults: Any = (), pace: Pace | None = None, api: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:  # fmt: skip
        self.store, addresses = Store(), Addresses()
        self.registry = Registry(self.store, addresses.service)
        self.events, self.faults, self.pace = Recorder(self.store), Faults(faults), pace or Pace()
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        self.nodes = Nodes(self.registry, self.events, self.pace, nodes)
        machine = Machine(
            self.registry, self.events, self.faults, Images(images), self.pace, root, addresses, self.session,
            api, set(), self.nodes.is_silent,
        )  # fmt: skip
        self.kubelet = Kubelet(machine)
        self.nodes.on_lost = self.kubelet.lose
        self.registry.admission.append(self._refused_pod)
        self.services = Services(self.store)
        self._controllers = (
            Deployments(self.registry, self.events),
            ReplicaSets(self.registry, self.events),
            Jobs(self.registry, self.events, self.pace),
            Collector(self.registry),
            self.nodes,
            Scheduler(self.registry, self.events, self.faults),
            self.kubelet,
            self.services,
        )
        self._woken = asyncio.Event()
        self.store.listen(self._on_change)
        for name in ("default", "kube-system", BENCH_NAMESPACE):
            self.registry.create(NAMESPACE, None, {"metadata": {"name": name}})
        for account in BENCH_ACCOUNTS:
            self.registry.create(SERVICE_ACCOUNT, BENCH_NAMESPACE, {"metadata": {"name": account}})
        self.nodes.start()

    def wake(self) -> None:
        self._woken.set()

    def _on_change(self, change: Change) -> None:
        if change.kind is not EVENT:
            self._woken.set()

    def _refused_pod(self, kind: Kind, obj: Obj) -> None:
        if kind is not POD:
            return
        fault = self.faults.for_pod(obj, uid_of(obj), "quota", "forbid")
        if fault is not None:
            text = (
                "exceeded quota: accelbench, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=8, "
                "limited: requests.nvidia.com/gpu=8"
            )
            if fault.do == "forbid":
                text = 'violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container must set it)'
            raise forbidden(POD, name_of(obj), fault.message or text)

    async def run(self) -> None:
        """Look after every change and ten times a second; an error in one controller does not stop the others."""
        while True:
            self._woken.clear()
            for controller in self._controllers:
                try:
                    controller.sync()
                except Exception:  # a defect of the emulator must be seen and must not hang a test
                    traceback.print_exc(file=sys.stderr)
            for quota in self.store.all(QUOTA):
                self.registry.set_status(QUOTA, quota, **quota_status(self.store, quota))
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._woken.wait()
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass

    async def close(self) -> None:
        """End every pod at once."""
        self.kubelet.stop()
        await self.session.close()
