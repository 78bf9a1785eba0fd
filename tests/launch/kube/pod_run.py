"""One pod on its node, from binding to its end.

Belongs here: volumes, init containers, ending with grace, eviction. Does not belong here: the status that follows
(``pod_status``), single containers (``container``), which pods run here (``kubelet``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.launch.kube import pod_status
from tests.launch.kube.addresses import Addresses
from tests.launch.kube.container import Container
from tests.launch.kube.deletion import DeleteOptions, delete
from tests.launch.kube.environment import Environment
from tests.launch.kube.events import Recorder
from tests.launch.kube.faults import Faults, PodFault
from tests.launch.kube.images import Images
from tests.launch.kube.kinds import POD, Obj, name_of, namespace_of, uid_of
from tests.launch.kube.moments import Pace, stamp
from tests.launch.kube.pod_faults import eviction_text
from tests.launch.kube.registry import Registry
from tests.launch.kube.volumes import MountError, describe, set_up

MOUNT_PAUSE_S = 2.0
SEEN_AFTER_S = 0.02  # from binding to the kubelet's first word


@dataclass
class Machine:
    """What all pods of one emulated cluster share."""

    registry: Registry
    events: Recorder
    faults: Faults
    images: Images
    pace: Pace
    root: Path
    addresses: Addresses
    session: aiohttp.ClientSession
    api: tuple[str, int]
    pulled: set[tuple[str, str]]
    is_silent: Callable[[str], bool]


class _Pulled:
    """The images present on one node."""

    def __init__(self, machine: Machine, node: str) -> None:
        self.machine, self.node = machine, node

    def __contains__(self, image: str) -> bool:
        return (self.node, image) in self.machine.pulled

    def add(self, image: str) -> None:
        self.machine.pulled.add((self.node, image))


class PodRun:
    """``run`` ends with the pod; ``end`` asks for it, ``cut`` takes it away at once."""

    def __init__(self, machine: Machine, pod: Obj) -> None:
        self.machine, self._pod = machine, pod
        self.uid, self.name, self.namespace = uid_of(pod), name_of(pod), str(namespace_of(pod))
        self.node = str(pod["spec"]["nodeName"])
        self.folder = machine.root / "pods" / self.namespace / describe(pod)
        self.restart_policy = str(pod["spec"]["restartPolicy"])
        self.pace, self.images, self.session = machine.pace, machine.images, machine.session
        self.pulled = _Pulled(machine, self.node)
        self.ip = machine.addresses.pod()
        self.volumes: dict[str, Path] = {}
        self.has_init = bool(pod["spec"].get("initContainers"))
        status = pod.get("status") or {}
        every = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
        known: dict[str, Obj] = {one["name"]: one for one in every}
        self.init = [
            Container(self, one, known.get(one["name"], {}), init=True)
            for one in pod["spec"].get("initContainers") or ()
        ]
        self.containers = [
            Container(self, one, known.get(one["name"], {})) for one in pod["spec"]["containers"]
        ]
        self.is_ending = False
        self._silent = False
        self.was_running = False
        self.mounted = False
        self.evicted = ""
        self.since = stamp()
        self._life: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the pod was taken away at once."""
        return self._silent

    def start(self) -> None:
        self._life = asyncio.create_task(self._run())

    @property
    def all(self) -> list[Container]:
        return [*self.init, *self.containers]

    def environment(self) -> Environment:
        pod = self.machine.registry.store.current(POD, self._pod) or self._pod
        return Environment(
            self.machine.registry.store, pod, ip=self.ip, folder=self.folder, api=self.machine.api
        )

    def fault(self, key: str, *kinds: str) -> PodFault | None:
        return self.machine.faults.for_pod(self._pod, key, *kinds)

    def tell(self, type_: str, reason: str, message: str, container: str = "") -> None:
        if not self._silent:
            self.machine.events.tell(
                POD, self._pod, type_, reason, message, "kubelet", container=container, host=self.node
            )

    def is_running(self) -> None:
        self.was_running = True

    async def _run(self) -> None:
        await asyncio.sleep(SEEN_AFTER_S)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.publish()
        while True:
            try:
                shared = self.machine.root / "claims"
                self.volumes = set_up(self.machine.registry.store, self._pod, self.folder, shared)
                break
            except MountError as error:
                self.tell("Warning", "FailedMount", str(error))
                await asyncio.sleep(self.pace(MOUNT_PAUSE_S, 0.05))
        self.mounted = True
        self.publish()
        for container in self.init:
            await container.run()
            if container.exit_code:
                self.publish()
                return
        if self.init:
            for container in self.containers:
                container.state = {"waiting": {"reason": "ContainerCreating"}}
        await asyncio.gather(*(container.run() for container in self.containers))

    # What the API shows.

    def publish(self) -> None:
        """Write the status that follows from the containers' states."""
        pod = self.machine.registry.store.current(POD, self._pod)
        if pod is None or self._silent:
            return
        self.machine.registry.set_status(POD, pod, **pod_status.fields(self, pod))

    # Ways to end.

    def end(self, grace_s: float) -> None:
        """SIGTERM now, SIGKILL after *grace_s* seconds, then the object goes."""
        if not self.is_ending:
            self.is_ending = True
            self._end = asyncio.create_task(self._finish(grace_s))

    async def _finish(self, grace_s: float) -> None:
        running = [one for one in self.all if one.process is not None and one.process.code is None]
        for container in running:
            self.tell("Normal", "Killing", f"Stopping container {container.name}", container.name)
            pre_stop = (container.spec.get("lifecycle") or {}).get("preStop") or {}
            if "sleep" in pre_stop:
                await asyncio.sleep(min(grace_s, pre_stop["sleep"]["seconds"]))
            if container.process is not None:
                container.process.terminate()
        ends = [asyncio.create_task(one.process.wait()) for one in running if one.process is not None]
        if ends:
            await asyncio.wait(ends, timeout=grace_s)
        if self._life is not None and not running:
            self._life.cancel()
        self.kill()
        if ends:
            await asyncio.wait(ends)
            await asyncio.sleep(0)  # lets the containers note how they ended
        if self._life is not None:
            self._life.cancel()
        self.publish()
        self._give_up_address()
        pod = self.machine.registry.store.current(POD, self._pod)
        if pod is not None and not self._silent:
            options = DeleteOptions(grace_s=0, uid=self.uid)
            delete(self.machine.registry, POD, self.namespace, self.name, options)

    def cut(self, *, silent: bool) -> None:
        """End everything at once; *silent* when the node can no longer report it."""
        self._silent = self._silent or silent
        self.is_ending = True
        for task in (self._life, self._end):
            if task is not None:
                task.cancel()
        self.kill()
        self._give_up_address()

    def evict(self) -> None:
        """By the kubelet, for want of memory: the pod fails and its object stays."""
        self.evicted = eviction_text(self._pod)
        self.is_ending = True
        self.tell("Warning", "Evicted", self.evicted)
        self.kill()

    def kill(self) -> None:
        for container in self.all:
            if container.process is not None:
                container.process.kill()

    def _give_up_address(self) -> None:
        if self.ip:
            self.machine.addresses.give_back(self.ip)
