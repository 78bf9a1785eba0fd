"""One container of a pod: pulled, configured, run, probed, run again.

Belongs here: its states and what leads from one to the next, its events, the faults that strike it. Does not belong
here: the pod's phase (``pod_run``), image pulls (``pulling``), processes as such (``processes``).
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.launch.kube import images, pod_faults, probes
from tests.launch.kube.environment import ConfigError, expand
from tests.launch.kube.faults import PodFault
from tests.launch.kube.kinds import Obj
from tests.launch.kube.moments import now, stamp
from tests.launch.kube.processes import Process
from tests.launch.kube.pulling import pull
from tests.launch.kube.volumes import Paths

if TYPE_CHECKING:
    from tests.launch.kube.pod_run import PodRun

CONFIG_PAUSE_S = 12.0
CRASH_PAUSE_S, LONGEST_CRASH_PAUSE_S, CRASH_RESET_S = 10.0, 300.0, 600.0
LEAST_PAUSE_S = 0.05
START_ERROR = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: error during container init: exec: "
)


class Container:
    """``run`` ends when the container will not be started again."""

    def __init__(self, pod: PodRun, spec: Obj, known: Obj, *, init: bool = False) -> None:
        """*known* is its status so far: it is not empty after the node was lost and came back."""
        self.pod, self.spec, self.init = pod, spec, init
        self.name, self.image = str(spec["name"]), str(spec["image"])
        first = "PodInitializing" if pod.has_init and not init else "ContainerCreating"
        self.state: Obj = {"waiting": {"reason": first}}
        self.last: Obj = {}
        self.restarts = 0
        self.ready = self.started = False
        self.process: Process | None = None
        self.attempt = -1
        self.began: dict[int, datetime] = {}
        self._killed_by: str | None = None  # oom, or the name of the probe that wanted it
        self._exit_code: int | None = None  # what to report in place of the true one
        if "containerID" in known:
            self.attempt = self.restarts = known["restartCount"]
            self.last = {"terminated": known["state"].get("terminated") or _unknown_end()}

    # What others see.

    def status(self) -> Obj:
        known = self.attempt >= 0
        return {
            "name": self.name,
            "image": images.full_name(self.image),
            "imageID": images.image_id(self.image) if known else "",
            **({"containerID": f"containerd://{self.pod.uid}-{self.name}-{self.attempt}"} if known else {}),
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }

    def log_file(self, attempt: int | None = None) -> Path:
        number = self.attempt if attempt is None else attempt
        return self.pod.folder / "logs" / self.name / f"{max(number, 0)}.log"

    @property
    def is_over(self) -> bool:
        return "terminated" in self.state

    @property
    def exit_code(self) -> int:
        return int(self.state.get("terminated", {}).get("exitCode", 0))

    def _set(self, state: Obj, *, ready: bool = False, started: bool = False) -> None:
        self.state, self.ready, self.started = state, ready, started
        self.pod.publish()

    def wait(self, reason: str, message: str = "") -> None:
        self._set({"waiting": {"reason": reason, **({"message": message} if message else {})}})

    def tell(self, type_: str, reason: str, message: str) -> None:
        self.pod.tell(type_, reason, message, container=self.name)

    # Its life.

    async def run(self) -> None:
        """Raises nothing; ends early only when cancelled."""
        policy = "OnFailure" if self.init else self.pod.restart_policy
        if self.init and self.pod.restart_policy == "Never":
            policy = "Never"
        failures = 0
        if self.attempt >= 0 and policy == "Never":
            self._set(self.last)
            return
        while True:
            await pull(self)
            argv, env = await self._configure()
            began = asyncio.get_running_loop().time()
            await self._once(argv, env)
            if self.pod.is_ending:
                return
            if policy == "Never" or (policy == "OnFailure" and self.exit_code == 0):
                return
            if asyncio.get_running_loop().time() - began > self.pod.pace(CRASH_RESET_S):
                failures = 0
            await self._pause(failures)
            failures += 1

    async def _configure(self) -> tuple[list[str], dict[str, str]]:
        while True:
            try:
                if self.pod.fault(f"{self.pod.uid}/{self.name}/config", "missing_secret"):
                    raise ConfigError(f'secret "{pod_faults.secret_of(self.spec)}" not found')
                return self._command()
            except ConfigError as error:
                self.tell("Warning", "Failed", f"Error: {error}")
                self.wait("CreateContainerConfigError", str(error))
                await asyncio.sleep(self.pod.pace(CONFIG_PAUSE_S, LEAST_PAUSE_S))

    def _command(self) -> tuple[list[str], dict[str, str]]:
        """Paths are replaced before variables, whose values may hold replaced paths already."""
        paths = Paths(self.spec, self.pod.volumes)
        env = self.pod.environment().build(self.spec, paths)
        image = self.pod.images.find(self.image)
        named = [expand(paths.replace(word), env) for word in self.spec.get("command") or ()]
        words = [expand(paths.replace(word), env) for word in self.spec.get("args") or ()]
        return [*(image.program(named) if image else named), *words], env

    async def _once(self, argv: list[str], env: dict[str, str]) -> None:
        """Start the process, watch it, and set the terminated state."""
        self.attempt += 1
        self.restarts = self.attempt
        self._killed_by = self._exit_code = None
        self.began[self.attempt] = now()
        began = stamp()
        fault = self.pod.fault(f"{self.pod.uid}/{self.name}/{self.attempt}", *pod_faults.RUNS)
        self.tell("Normal", "Created", "Container created")
        try:
            argv = pod_faults.replacement(fault, argv)
            self.process = Process(argv, env, self.pod.folder, self.log_file())
        except OSError as error:
            text = f'{START_ERROR}"{argv[0]}": stat {argv[0]}: {(error.strerror or "").lower()}'
            self.tell("Warning", "Failed", f"Error: {text}")
            self._terminated(128, "StartError", began, text)
            return
        self.tell("Normal", "Started", "Container started")
        has_startup, has_readiness = "startupProbe" in self.spec, "readinessProbe" in self.spec
        self.pod.is_running()
        self._set(
            {"running": {"startedAt": began}},
            started=not has_startup,
            ready=not has_startup and not has_readiness,
        )
        helpers = [asyncio.create_task(self._probes())]
        if fault is not None:
            helpers.append(asyncio.create_task(self._strike(fault)))
        try:
            code = await self.process.wait()
        finally:
            for helper in helpers:
                helper.cancel()
        code = self._exit_code if self._exit_code is not None else code
        reason = "OOMKilled" if self._killed_by == "oom" else "Completed" if code == 0 else "Error"
        self._terminated(code, reason, began)

    def _terminated(self, code: int, reason: str, began: str, message: str = "") -> None:
        if not message and code and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            with contextlib.suppress(OSError):
                message = self.log_file().read_bytes()[-2048:].decode(errors="replace")
        ended: Obj = {
            "exitCode": code,
            "reason": reason,
            "startedAt": began,
            "finishedAt": stamp(),
            "containerID": f"containerd://{self.pod.uid}-{self.name}-{self.attempt}",
        }
        self._set({"terminated": {**ended, **({"message": message} if message else {})}})

    async def _strike(self, fault: PodFault) -> None:
        assert self.process is not None
        while fault.when and not Path(fault.when).exists():  # noqa: ASYNC110, ASYNC240 - a file is all a test can make
            await asyncio.sleep(0.02)
        await asyncio.sleep(fault.after_s)
        if fault.do == "evict":
            self.pod.evict()
        elif fault.do in ("oom", "crash", "exit"):
            self._killed_by = "oom" if fault.do == "oom" else None
            self._exit_code = 137 if fault.do == "oom" else fault.code
            if text := pod_faults.last_words(fault):
                with self.log_file().open("a", encoding="utf-8") as log:
                    log.write(text)
            self.process.kill()

    async def _probes(self) -> None:
        ip, session = self.pod.ip, self.pod.session

        async def on_startup(good: bool | None, text: str) -> bool:
            if good:
                self._set(self.state, started=True, ready="readinessProbe" not in self.spec)
            else:
                self._complain("Startup", "startup", good, text)
            return good is not None

        async def on_readiness(good: bool | None, text: str) -> bool:
            if not good:
                self.tell("Warning", "Unhealthy", f"Readiness probe failed: {text}")
            if good is not None and good != self.ready:
                self._set(self.state, started=True, ready=good)
            return False

        async def on_liveness(good: bool | None, text: str) -> bool:
            if not good:
                self._complain("Liveness", "liveness", good, text)
            return good is False

        if probe := self.spec.get("startupProbe"):
            await probes.watch(session, probe, self.spec, ip, self.pod.pace, on_startup)
            if not self.started:
                return
        both = (("readinessProbe", on_readiness), ("livenessProbe", on_liveness))
        async with asyncio.TaskGroup() as group:
            for field, report in both:
                if probe := self.spec.get(field):
                    group.create_task(probes.watch(session, probe, self.spec, ip, self.pod.pace, report))

    def _complain(self, title: str, name: str, good: bool | None, text: str) -> None:
        self.tell("Warning", "Unhealthy", f"{title} probe failed: {text}")
        if good is False and self.process is not None:
            self.tell("Normal", "Killing", f"Container {self.name} failed {name} probe, will be restarted")
            self._killed_by, self._exit_code = name, 137
            self.process.kill()

    async def _pause(self, failures: int) -> None:
        """Before the next start: the first comes at once, later ones after a growing pause."""
        ended = {"terminated": self.state["terminated"]}
        if failures > 0:
            seconds = min(CRASH_PAUSE_S * 2 ** (failures - 1), LONGEST_CRASH_PAUSE_S)
            about = f"container {self.name} in pod {self.pod.name}({self.pod.uid})"
            self.tell("Warning", "BackOff", f"Back-off restarting failed {about}")
            await asyncio.sleep(self.pod.pace(seconds) / 2)
            self.last = ended
            shown = f"container={self.name} pod={self.pod.name}_{self.pod.namespace}({self.pod.uid})"
            self.wait("CrashLoopBackOff", f"back-off {seconds:g}s restarting failed {shown}")
            await asyncio.sleep(self.pod.pace(seconds, LEAST_PAUSE_S) / 2)
        self.last = ended


def _unknown_end() -> Obj:
    """Of a container whose node went down under it."""
    times = {"startedAt": None, "finishedAt": stamp()}
    return {"exitCode": 255, "reason": "Unknown", "containerID": "", **times}
