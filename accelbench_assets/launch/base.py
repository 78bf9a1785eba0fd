"""The seam between a benchmark and the place its engine runs: specs, endpoints and the ``Launcher`` protocol.

Belongs here: value objects and the protocol, free of Dagster, Kubernetes and of any engine.
Does not belong here: a launcher (``local``, ``endpoint``, later ``eks``), how an engine is started (``engines``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from accelbench_assets.errors import DeadlineExceeded
from loadgen.plan import Plan, Replica, ScrapeTarget
from partitions.cell import BenchmarkCell

__all__ = [
    "AttemptHold",
    "Deadline",
    "Endpoint",
    "EventSink",
    "Launcher",
    "LoadManifest",
    "NoHold",
    "Replica",
    "ScrapeTarget",
    "ServerSpec",
    "utc_now",
]

EventSink = Callable[[str, str, Mapping[str, Any]], None]
"""``sink(kind, message, data)``: progress for people and UIs. Kinds: ``phase``, ``progress``, ``log``, ``warning``."""


def utc_now() -> datetime:
    """The wall clock, timezone-aware; for records only, never for durations."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock after which everything of a run must be over."""

    at: float
    total_s: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline *seconds* from now."""
        return cls(time.monotonic() + seconds, seconds)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    def check(self, doing: str) -> None:
        """Raise ``DeadlineExceeded`` when nothing is left; *doing* is a gerund phrase."""
        if self.remaining() <= 0:
            raise DeadlineExceeded(f"The run's deadline of {self.total_s:.0f} s passed while {doing}.")


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What to serve and where its files go.

    ``work_dir`` exists and is this run's own on the local disk: engine logs, plan and metrics dumps go there and are
    copied into the lake at the end. For a server somebody else runs, ``endpoint_url`` is set, with the name of the
    environment variable that holds its API key and extra headers.
    """

    run_id: str
    cell: BenchmarkCell
    model_id: str
    work_dir: Path
    endpoint_url: str | None = None
    api_key_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    served_model_name: str | None = None
    port: int | None = None
    shards: int = 1
    """Generator processes on hosts of their own, where the launcher has several."""
    engine_image: str | None = None
    model_commit: str | None = None


@dataclass(slots=True)
class Endpoint:
    """A served deployment, every replica of which has answered a real completion.

    ``facts`` holds what the ``runs`` table wants to know of target, model and engine, by its field names
    (engine, engine_version, engine_args, env, origin, hardware, weights_sha256, quantization, weight_dtype,
    max_model_len, replicas, host_fingerprint, provisioned_at, weights_loaded_at, ready_at, first_probe_at, ready_s, …).
    """

    model: str
    replicas: tuple[Replica, ...]
    facts: dict[str, Any]
    read_metrics: Callable[[], dict[str, str]]
    """The engine's own ``/metrics`` text by replica_id; empty where there is none."""
    check_alive: Callable[[], None]
    """Raises ``LaunchError`` (code ``crashed``) with the log's last lines when an engine process has died."""
    supports_ignore_eos: bool = True
    scrape: tuple[ScrapeTarget, ...] = ()
    """Pages the generator reads beside the load because the orchestrator cannot; ``read_metrics`` then gives none."""


@dataclass(frozen=True, slots=True)
class LoadManifest:
    """What the generator left: its ``shard.json`` documents, already read back and verified, and its exit code."""

    shards: tuple[Mapping[str, Any], ...]
    exit_code: int


class AttemptHold(Protocol):
    """What keeps others from taking an attempt for dead while it lasts."""

    billed_since: float | None
    """Monotonic time from which the rented machines of the attempt together cost money; ``None`` before there are any.
    A machine that was lost and replaced moves it back by its share of what is paid for it after that.
    """

    def check(self) -> None:
        """Raise ``LaunchError``: ``lease_lost`` when others may take it for dead, ``cancelled`` when somebody asked
        for its end.
        """
        ...


class NoHold:
    """On one machine the run's lock, which the kernel drops with its process, is enough."""

    billed_since: float | None = None

    def check(self) -> None:
        """Nothing can be lost."""

    @classmethod
    def around(cls) -> AbstractContextManager[AttemptHold]:
        """A context in which nothing is held."""
        return nullcontext(cls())


class Launcher(Protocol):
    """Serves a deployment and drives load beside it. Leaving ``serve`` in any way leaves nothing running."""

    name: str
    paid: bool
    """Whether launching costs money, so that it needs an estimate and a reservation."""
    remote: bool
    """Whether server and generator run elsewhere: what they need from this machine must be brought to them."""

    def attempt_facts(self) -> dict[str, Any]:
        """What the registration of an attempt says so that others can tell its death (the cluster it runs in).

        Asked before anything is registered; raises ``LaunchError`` when nothing could be launched at all.
        """
        ...

    def attempt(
        self, run_id: str, cell_id: str, deadline: Deadline, on_renew: Callable[[], None]
    ) -> AbstractContextManager[AttemptHold]:
        """Held from before anything is started until the run's record is written; *on_renew* is called at every sign
        of life. Leaving it removes whatever of the run is left.
        """
        ...

    def serve(
        self, spec: ServerSpec, deadline: Deadline, on_event: EventSink
    ) -> AbstractContextManager[Endpoint]:
        """Start (or find) the servers and yield when all are ready. Raises ``LaunchError``, ``DeadlineExceeded``."""
        ...

    def load(
        self,
        plan: Plan,
        endpoint: Endpoint,
        out: str,
        spec: ServerSpec,
        deadline: Deadline,
        on_event: EventSink,
    ) -> LoadManifest:
        """Run the generator until it is done. *out* is the URI of the run's ``_incoming`` folder.

        Raises ``LaunchError`` (code ``loadgen_failed`` or ``disk_full``), ``DeadlineExceeded``.
        """
        ...
