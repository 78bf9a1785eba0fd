"""What one load generator process is told to do: the plan, read from and written to JSON.

Belongs here: the plan's fields, their validation and their JSON form. The orchestrator writes ``plan.json``, the
generator reads it; nothing else passes between them but samples, ``shard.json`` and progress lines.
Does not belong here: schedules (``schedule``), prompts (``workloads``), sending (``client``).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class PlanError(ValueError):
    """A plan, workload or flag that cannot be run; the text names the field."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One server process that answers: ``replica_id`` is its address, ``base_url`` has no trailing slash."""

    replica_id: str
    base_url: str


@dataclass(frozen=True, slots=True)
class Step:
    """One point of a ladder.

    ``load_kind`` is ``closed`` (``load_value`` = concurrency, an integer >= 1) or ``open`` (``load_value`` = scheduled
    arrivals a second). Times in seconds: warm-up (flagged, not dropped), window W (fixed before the run), and the
    longest tail, during which load goes on until every request that arrived in W is done.
    """

    step_index: int
    load_kind: str
    load_value: float
    warmup_s: float
    window_s: float
    tail_s: float
    arrival: str = "none"  # none (closed) | poisson | constant


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a generator needs. Holds no secret: the API key is named by its environment variable."""

    run_id: str
    model: str
    replicas: tuple[Replica, ...]
    steps: tuple[Step, ...]
    workload: Mapping[str, Any]  # the parsed, canonical workload document; see loadgen/workloads
    workload_id: str
    workload_hash: str
    seed: int
    request_timeout_s: float
    idle_timeout_s: float
    deadline_s: float  # the whole generator process, from its start
    api: str = "chat"  # chat | completions
    stream: bool = True
    api_key_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    shard: int = 0
    shards: int = 1

    def to_json(self) -> str:
        """Canonical JSON (sorted keys, no spaces)."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan; raises ``PlanError`` naming what is missing or of the wrong kind."""
        try:
            raw = json.loads(text)
            raw["replicas"] = tuple(Replica(**r) for r in raw["replicas"])
            raw["steps"] = tuple(Step(**s) for s in raw["steps"])
            plan = cls(**raw)
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"plan: {error}") from None
        plan.validate()
        return plan

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read ``plan.json``."""
        return cls.from_json(path.read_text(encoding="utf-8"))

    def validate(self) -> None:
        """Raise ``PlanError`` naming the first field that cannot be run."""
        if not self.replicas:
            raise PlanError("replicas: at least one is needed")
        if not self.steps:
            raise PlanError("steps: at least one is needed")
        if not 0 <= self.shard < self.shards:
            raise PlanError(f"shard: {self.shard} is not in 0..{self.shards - 1}")
        if self.api not in ("chat", "completions"):
            raise PlanError(f"api: {self.api!r} is neither chat nor completions")
        for step in self.steps:
            where = f"steps[{step.step_index}]"
            if step.load_kind not in ("closed", "open"):
                raise PlanError(f"{where}.load_kind: {step.load_kind!r} is neither closed nor open")
            if step.load_kind == "closed" and (
                step.load_value < 1 or step.load_value != int(step.load_value)
            ):
                raise PlanError(f"{where}.load_value: concurrency must be a whole number >= 1")
            if step.load_kind == "open" and step.arrival not in ("poisson", "constant"):
                raise PlanError(f"{where}.arrival: {step.arrival!r} is neither poisson nor constant")
            if step.load_value <= 0 or step.window_s <= 0 or step.warmup_s < 0 or step.tail_s < 0:
                raise PlanError(
                    f"{where}: load_value and window_s must be positive, warmup_s and tail_s not negative"
                )
        for name in ("request_timeout_s", "idle_timeout_s", "deadline_s"):
            if getattr(self, name) <= 0:
                raise PlanError(f"{name}: must be positive")
