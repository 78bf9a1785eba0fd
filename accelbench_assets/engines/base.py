"""What every engine module provides: the ``Engine`` protocol and what is found of an engine on this machine.

Belongs here: the protocol and its value objects. Does not belong here: any one engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from accelbench_assets.engines.weights import Weights
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.probe import Server
from partitions.cell import Deployment


@dataclass(frozen=True, slots=True)
class EngineInstall:
    """An engine that can be started here: its version, the interpreter that runs it, and the weights it will
    load.
    """

    engine: str
    version: str
    interpreter: Path
    weights: Weights


class Engine(Protocol):
    """How to start and read one engine. Instances hold no state."""

    name: str
    origin: str
    """``measured`` for a real engine; what every row it produces is marked with."""
    health_path: str
    metrics_path: str
    fact_args: Mapping[str, str]
    """Which of the effective arguments are ``max_model_len``, ``kv_cache_dtype`` and ``prefix_caching``."""
    start_timeout_s: float
    """Longest time from start to the first answer before the start counts as failed."""
    scratch_variable: str | None
    """Environment variable that names the folder of files the engine may leave behind when it is ended; null where it
    leaves none. Never its caches, which the next start wants.
    """

    def installed_version(self, home: Path) -> str:
        """The version that would run. Raises ``LaunchError`` (``missing_part``) naming the package and the
        command.
        """
        ...

    def weights(self, model: str, home: Path) -> Weights:
        """The local files of *model* (a slug) in this engine's format. Raises ``LaunchError``
        (``model_not_found``).
        """
        ...

    def find(self, spec: ServerSpec, home: Path | None = None) -> EngineInstall:
        """What serves *spec*; refuses (``LaunchError``) a version, revision or argument the cell does not
        truly name.
        """
        ...

    def command(self, install: EngineInstall, spec: ServerSpec, host: str, port: int) -> list[str]:
        """The command line of one replica."""
        ...

    def env(self, spec: ServerSpec, home: Path) -> dict[str, str]:
        """Variables this engine needs beyond the inherited ones; its caches go below *home*."""
        ...

    def version(self, server: Server, install: EngineInstall) -> str:
        """The version of the running server: what it says itself, else what is installed."""
        ...

    def effective_args(self, server: Server, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """*arguments* (as started) overlaid with what the running server says of itself."""
        ...

    def startup_durations(self, log: str) -> dict[str, float]:
        """``weights_s`` and ``compile_s`` in seconds as far as the engine's log tells them."""
        ...


def check_install(spec: ServerSpec, install: EngineInstall) -> EngineInstall:
    """*install* if it is what the cell names: engine version, model revision and quantization.

    A result must never stand under a key that names something else. Raises ``LaunchError``.
    """
    cell, weights = spec.cell, install.weights
    pairs = (
        ("wrong_version", f"{install.engine} version", cell.engine_version, install.version),
        ("wrong_weights", f"revision of {cell.model}", cell.revision, weights.revision),
        (
            "wrong_weights",
            f"quantization of {cell.model}",
            cell.deployment.quantization,
            weights.quantization,
        ),
    )
    for code, what, wanted, found in pairs:
        if wanted != found:
            raise LaunchError(
                f"The cell names {wanted} as {what}, and this machine has {found}.",
                code=code,
                hint=f"Benchmark a cell that names {found}.",
            )
    return install


def refuse_parallelism(name: str, deployment: Deployment) -> None:
    """Raise ``LaunchError`` (``unsupported``) for a deployment of more than one device or with a router."""
    for field in ("tp", "pp", "dp", "ep"):
        if getattr(deployment, field) != 1:
            raise LaunchError(
                f"{name} here serves one device: {field} must be 1, not {getattr(deployment, field)}.",
                code="unsupported",
            )
    if deployment.router != "none":
        raise LaunchError(
            f"The local launcher has no router, and the cell asks for {deployment.router}.",
            code="unsupported",
        )


def started_with(command: list[str]) -> dict[str, Any]:
    """The ``--name value`` arguments of a command line, host and port left out (they mean nothing for a
    result).
    """
    found: dict[str, Any] = {}
    for index, word in enumerate(command):
        if word.startswith("--"):
            following = command[index + 1] if index + 1 < len(command) else "--"
            found[word[2:]] = True if following.startswith("--") else following
    return {k: v for k, v in found.items() if k not in ("host", "port")}
