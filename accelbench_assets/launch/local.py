"""The launcher for this machine: engines as supervised processes on loopback ports.

Belongs here: ports, starting replicas, waiting until each has really answered, noticing death, teardown.
Does not belong here: how an engine is started (``engines``), keeping its process from outliving us
(``supervise``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelbench_assets.engines.base import Engine, EngineInstall, started_with
from accelbench_assets.engines.registry import get_engine
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import (
    AttemptHold,
    Deadline,
    Endpoint,
    EventSink,
    LoadManifest,
    NoHold,
    Replica,
    ServerSpec,
    utc_now,
)
from accelbench_assets.launch.facts import base_facts, clean_args, iso, telling_env, without_secrets
from accelbench_assets.launch.generator import run_generator
from accelbench_assets.launch.host import host_fingerprint, host_label, local_instance
from accelbench_assets.launch.locks import machine_to_itself
from accelbench_assets.launch.logs import scrub_file
from accelbench_assets.launch.ports import HOST, choose_ports
from accelbench_assets.launch.probe import Server
from accelbench_assets.launch.process import SupervisedProcess
from accelbench_assets.launch.ready import Starting, death, wait_ready
from accelbench_assets.settings import load_settings
from loadgen.plan import Plan

PORT_ATTEMPTS = 3  # a free port may be taken between choosing it and the engine's bind
_LOG_BYTES = 4 * 2**20


class LocalLauncher:
    """Serves cells of instance ``local-…`` of this machine. *home* holds models and caches (default: the
    setting).
    """

    name = "local"
    paid = False
    remote = False

    def __init__(self, home: Path | None = None) -> None:
        self._home = home

    def attempt_facts(self) -> dict[str, Any]:
        """Nothing beyond the run's lock."""
        return {}

    def attempt(
        self, run_id: str, cell_id: str, deadline: Deadline, on_renew: Callable[[], None]
    ) -> AbstractContextManager[AttemptHold]:
        """See ``Launcher.attempt``: nothing is held."""
        return NoHold.around()

    @contextmanager
    def serve(self, spec: ServerSpec, deadline: Deadline, on_event: EventSink) -> Iterator[Endpoint]:
        """See ``Launcher.serve``. Codes: ``wrong_machine``, ``unknown_engine``, ``missing_part``,
        ``model_not_found``, ``wrong_version``, ``wrong_weights``, ``unsupported``, ``port_busy``,
        ``crashed``, ``not_ready``, ``busy``.
        """
        home = self._home or load_settings().home
        if spec.cell.instance != local_instance():
            raise LaunchError(
                f"The cell is for machine {spec.cell.instance}, and this one is {local_instance()}.",
                code="wrong_machine",
                hint="Run it there, or benchmark a cell of this machine.",
            )
        engine = get_engine(spec.cell.engine)
        install = engine.find(spec, home)
        endpoint: Endpoint | None = None
        try:
            with ExitStack() as running:
                running.enter_context(machine_to_itself(home, spec.run_id))
                endpoint = self._start(engine, install, spec, home, deadline, on_event, running)
                yield endpoint
        finally:
            if endpoint is not None:
                endpoint.facts["torn_down_at"] = iso(utc_now())
            for index in range(spec.cell.deployment.replicas):
                scrub_file(_log_path(spec, index))

    def load(
        self,
        plan: Plan,
        endpoint: Endpoint,
        out: str,
        spec: ServerSpec,
        deadline: Deadline,
        on_event: EventSink,
    ) -> LoadManifest:
        """See ``Launcher.load``; the generator is a child process on this machine."""
        return run_generator(plan, endpoint, out, spec, deadline, on_event)

    def _start(
        self,
        engine: Engine,
        install: EngineInstall,
        spec: ServerSpec,
        home: Path,
        deadline: Deadline,
        on_event: EventSink,
        running: ExitStack,
    ) -> Endpoint:
        """Replicas that answer, registered with *running* for teardown."""
        model = spec.served_model_name or spec.cell.model
        env = engine.env(spec, home)
        on_event("phase", f"Starting {engine.name} {install.version} with {model}", {"engine": engine.name})
        for attempt in range(1, PORT_ATTEMPTS + 1):
            ports = choose_ports(spec.port, spec.cell.deployment.replicas)
            provisioned_at, started = utc_now(), time.monotonic()
            try:
                with ExitStack() as trying:
                    replicas = _spawn(engine, install, spec, ports, env, deadline, trying)
                    wait_ready(engine, model, replicas, deadline, started)
                    running.push(trying.pop_all())
                break
            except LaunchError as error:
                if error.code != "port_busy" or spec.port is not None or attempt == PORT_ATTEMPTS:
                    raise
        first_command = engine.command(install, spec, HOST, ports[0])
        facts = base_facts(spec, self.name) | {
            "provisioned_at": iso(provisioned_at),
            "provision_s": 0.0,  # the machine was there
            **_ready_facts(replicas),
            **_target_facts(engine, install, spec, replicas[0].server, started_with(first_command)),
            "env": telling_env(env),
            **engine.startup_durations(_read(_log_path(spec, 0))),
        }
        on_event(
            "phase", f"{engine.name} is ready after {facts['ready_s']:.1f} s", {"ready_s": facts["ready_s"]}
        )

        def check_alive() -> None:
            for replica in replicas:
                if not replica.process.running():
                    raise death(engine.name, replica.process, "during the run")

        def read_metrics() -> dict[str, str]:
            texts = {_address(r.server): r.server.get(engine.metrics_path) for r in replicas}
            return {address: reply.text for address, reply in texts.items() if reply is not None}

        return Endpoint(
            model=model,
            replicas=tuple(Replica(_address(r.server), r.server.base_url) for r in replicas),
            facts=facts,
            read_metrics=read_metrics,
            check_alive=check_alive,
            supports_ignore_eos=all(r.supports_ignore_eos for r in replicas),
        )


def _spawn(
    engine: Engine,
    install: EngineInstall,
    spec: ServerSpec,
    ports: list[int],
    env: Mapping[str, str],
    deadline: Deadline,
    running: ExitStack,
) -> list[Starting]:
    """One supervised process a port, each registered with *running*."""
    replicas = []
    for index, port in enumerate(ports):
        process = SupervisedProcess(
            engine.command(install, spec, HOST, port),
            log=_log_path(spec, index),
            env={**without_secrets(os.environ), **env},
            deadline_s=deadline.remaining(),
            scratch_variable=engine.scratch_variable,
        )
        running.enter_context(process)
        replicas.append(Starting(Server(f"http://{HOST}:{port}"), process))
    return replicas


def _address(server: Server) -> str:
    return server.base_url.removeprefix("http://")


def _log_path(spec: ServerSpec, index: int) -> Path:
    return spec.work_dir / f"engine-{index}.log"


def _read(path: Path) -> str:
    with path.open("rb") as log:
        return log.read(_LOG_BYTES).decode("utf-8", errors="replace")


def _ready_facts(replicas: list[Starting]) -> dict[str, Any]:
    """Times of the slowest replica; ``first_probe_at`` of the first that answered."""
    return {
        "weights_loaded_at": iso(max(r.healthy_at for r in replicas if r.healthy_at)),
        "weights_s": round(max(r.healthy_s for r in replicas), 6),
        "first_probe_at": iso(min(r.ready_at for r in replicas if r.ready_at)),
        "ready_at": iso(max(r.ready_at for r in replicas if r.ready_at)),
        "ready_s": round(max(r.ready_s for r in replicas), 6),
    }


def _target_facts(
    engine: Engine, install: EngineInstall, spec: ServerSpec, server: Server, started: Mapping[str, Any]
) -> dict[str, Any]:
    weights, deployment = install.weights, spec.cell.deployment
    arguments = engine.effective_args(server, started)
    facts = {name: arguments.get(argument) for name, argument in engine.fact_args.items()}
    caching = facts.pop("prefix_caching")
    version = engine.version(server, install)
    if version != install.version:
        raise LaunchError(
            f"The running {engine.name} says it is {version}, not {install.version} as installed.",
            code="wrong_version",
        )
    return {
        **{name: value for name, value in facts.items() if value is not None},
        "prefix_caching": None if caching is None else str(caching).lower() in ("on", "true"),
        "origin": engine.origin,
        "hardware": "observed",
        "host_fingerprint": host_fingerprint(),
        "accelerator_kind": "cpu",
        "accelerator_name": host_label(),
        "accelerators_used": 0,
        "weights_sha256": weights.sha256,
        "model_revision": weights.revision,
        "quantization": weights.quantization,
        "weight_dtype": weights.dtype if deployment.dtype == "auto" else deployment.dtype,
        "engine_version": version,
        "engine_args": clean_args(arguments),
        "spec_decoding": "none",
    }
