"""What one load generator process is told to do: the plan, read from and written to JSON.

Belongs here: the plan's fields, their validation and their JSON form. The orchestrator writes ``plan.json``, the
generator reads it; nothing else passes between them but samples, ``shard.json`` and progress lines.
Does not belong here: schedules (``schedule``), prompts (``workloads``), sending (``client``).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MAX_WORKERS = 64
SCRAPE_KINDS = ("engine", "dcgm", "neuron")
MAX_SCRAPES = 64


class PlanError(ValueError):
    """A plan, workload or flag that cannot be run; the text names the field."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One server process that answers: ``replica_id`` is its address, ``base_url`` has no trailing slash."""

    replica_id: str
    base_url: str


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """One page of metrics that the generator reads beside the load because nobody else can reach it.

    ``kind``: ``engine`` (the server's own page), ``dcgm`` (NVIDIA's exporter) or ``neuron`` (the exporter of
    neuron-monitor). ``replica_id`` is the replica it belongs to, as samples name it; of an accelerator page, the
    replica or node that it watches. ``url`` is the whole address, path included, and holds no secret.
    """

    kind: str
    replica_id: str
    url: str


@dataclass(frozen=True, slots=True)
class Step:
    """One point of a ladder.

    ``load_kind`` is ``closed`` (``load_value`` = concurrency, an integer >= 1) or ``open`` (``load_value`` = scheduled
    arrivals a second). Times in seconds: warm-up (flagged, not dropped), window W (fixed before the run), and the
    longest tail, during which load goes on until every request that arrived in W is done.

    ``kind`` says why the step is there: ``ladder`` (asked for), ``bisect`` or ``confirm`` (a capacity search). With
    ``warmup_rule`` ``time`` the warm-up lasts ``warmup_s``; with ``state`` it lasts until the server is steady, at
    least ``warmup_s`` and at most ``warmup_max_s``.
    """

    step_index: int
    load_kind: str
    load_value: float
    warmup_s: float
    window_s: float
    tail_s: float
    arrival: str = "none"  # none (closed) | poisson | constant | gamma:K | trace | steps:... | at_once
    kind: str = "ladder"  # ladder | bisect | confirm
    warmup_rule: str = "time"  # time | state
    warmup_max_s: float = 600.0

    @property
    def warmup_limit_s(self) -> float:
        """The longest the warm-up may last."""
        return max(self.warmup_s, self.warmup_max_s) if self.warmup_rule == "state" else self.warmup_s

    @property
    def planned_s(self) -> float:
        """Seconds of load this step takes where nothing is cut short; a warm-up by state counts its minimum."""
        return self.warmup_s + self.window_s + self.tail_s


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a generator needs. Holds no secret: the API key, and a proxy that wants a password, are named by their
    environment variables.

    ``shard`` of ``shards`` takes its share of one schedule; ``workers`` processes of one command do the same among
    themselves (the parent makes the shards). ``search`` turns the first step into the pattern of a capacity search:
    ``slo`` (ttft_ms, tpot_ms, e2e_ms, quantile), and optionally ``arrival``, ``fractions``, ``max_concurrency``.
    """

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
    models: tuple[str, ...] = ()  # of a multi-model run; empty = (model,)
    dataset: str | None = None  # the user's own requests or trace: a path, or s3://bucket/key
    workers: int = 1
    search: Mapping[str, Any] | None = None
    proxy: str | None = None  # http://host:port, without credentials
    proxy_env: str | None = None  # the environment variable that holds a proxy URL with credentials
    http_version: str = "1.1"  # 1.1 | 2
    fresh_connections: bool = False  # a new connection for every request
    canary: bool = False  # check some answers after the last step
    null_server: bool = True  # measure this client against a server that costs nothing, after the run
    start_at_unix: float | None = None  # shards on several hosts start together
    scrape: tuple[ScrapeTarget, ...] = ()  # pages to read at 1 Hz beside the load; shard 0 does

    def share(self, step: Step) -> float:
        """This shard's share of *step*'s load: users (the first shards have one more), or arrivals a second."""
        if step.load_kind == "open":
            return step.load_value / self.shards
        users, more = divmod(int(step.load_value), self.shards)
        return users + (self.shard < more)

    @property
    def shard_count(self) -> int:
        """How many ``shard.json`` the command leaves: one a worker, or one a shard."""
        return self.workers if self.workers > 1 else self.shards

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
            raw["models"] = tuple(raw.get("models", ()))
            raw["scrape"] = tuple(ScrapeTarget(**t) for t in raw.get("scrape", ()))
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
            _check_step(step, f"steps[{step.step_index}]")
        for name in ("request_timeout_s", "idle_timeout_s", "deadline_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise PlanError(f"{name}: must be positive and finite")
        if not all(isinstance(model, str) and model for model in self.models):
            raise PlanError("models: every model needs a name")
        self._check_transport()
        self._check_division()
        _check_scrape(self.scrape)

    def _check_transport(self) -> None:
        if self.http_version not in ("1.1", "2"):
            raise PlanError(f"http_version: {self.http_version!r} is neither 1.1 nor 2")
        if self.proxy is not None:
            if self.proxy_env is not None:
                raise PlanError("proxy, proxy_env: only one of them can be given")
            parts = urlsplit(self.proxy)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise PlanError("proxy: must be a URL of the form http://host:port")
            if parts.username or parts.password:
                raise PlanError(
                    "proxy: a user name and password do not belong here; put the URL into an environment variable "
                    "and name it in proxy_env"
                )

    def _check_division(self) -> None:
        if type(self.workers) is not int or not 1 <= self.workers <= MAX_WORKERS:
            raise PlanError(f"workers: {self.workers!r} is not a whole number from 1 to {MAX_WORKERS}")
        if self.workers > 1 and self.shards > 1:
            raise PlanError("workers, shards: a shard is one process; use one of them")
        if self.start_at_unix is not None and not 0 < self.start_at_unix < math.inf:
            raise PlanError("start_at_unix: must be seconds since 1970")
        if self.search is not None:
            if self.workers > 1 or self.shards > 1:
                raise PlanError(
                    "search: a capacity search decides after every step and runs in one process; "
                    "leave out workers and shards"
                )
            _check_search(self.search)


def _check_scrape(targets: tuple[ScrapeTarget, ...]) -> None:
    if len(targets) > MAX_SCRAPES:
        raise PlanError(f"scrape: {len(targets)} pages are too many; at most {MAX_SCRAPES} are read")
    for index, target in enumerate(targets):
        where = f"scrape[{index}]"
        if target.kind not in SCRAPE_KINDS:
            raise PlanError(f"{where}.kind: {target.kind!r} is none of {', '.join(SCRAPE_KINDS)}")
        if not isinstance(target.replica_id, str) or not target.replica_id:
            raise PlanError(f"{where}.replica_id: the page needs a replica it belongs to")
        try:
            parts = urlsplit(target.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except (ValueError, AttributeError):
            usable = False
        if not usable:
            raise PlanError(f"{where}.url: must be a URL of the form http://host:port/metrics")
        if parts.username or parts.password:
            raise PlanError(f"{where}.url: a user name and password do not belong here")


def _check_step(step: Step, where: str) -> None:
    from loadgen.schedule import check_arrival

    times = (step.load_value, step.window_s, step.warmup_s, step.tail_s, step.warmup_max_s)
    if not all(math.isfinite(value) for value in times):
        raise PlanError(f"{where}: load_value and times must be finite")
    if step.load_kind not in ("closed", "open"):
        raise PlanError(f"{where}.load_kind: {step.load_kind!r} is neither closed nor open")
    if step.load_kind == "closed" and (step.load_value < 1 or step.load_value != int(step.load_value)):
        raise PlanError(f"{where}.load_value: concurrency must be a whole number >= 1")
    try:
        check_arrival(step.arrival)
    except ValueError as error:
        raise PlanError(f"{where}.arrival: {str(error).removeprefix('arrival: ')}") from None
    if (step.arrival == "none") != (step.load_kind == "closed"):
        raise PlanError(f"{where}.arrival: {step.arrival!r} does not fit load_kind {step.load_kind}")
    if step.load_value <= 0 or step.window_s <= 0 or step.warmup_s < 0 or step.tail_s < 0:
        raise PlanError(
            f"{where}: load_value and window_s must be positive, warmup_s and tail_s not negative"
        )
    if step.kind not in ("ladder", "bisect", "confirm"):
        raise PlanError(f"{where}.kind: {step.kind!r} is none of ladder, bisect, confirm")
    if step.warmup_rule not in ("time", "state"):
        raise PlanError(f"{where}.warmup_rule: {step.warmup_rule!r} is neither time nor state")
    if step.warmup_rule == "state" and step.arrival.partition(":")[0] in ("trace", "steps", "at_once"):
        raise PlanError(
            f"{where}.warmup_rule: arrival {step.arrival.partition(':')[0]} needs a fixed warm-up"
        )
    if step.warmup_max_s <= 0:
        raise PlanError(f"{where}.warmup_max_s: must be positive")


def _check_search(search: Mapping[str, Any]) -> None:
    if unknown := set(search) - {"slo", "arrival", "fractions", "max_concurrency"}:
        raise PlanError(f"search: unknown field {sorted(unknown)[0]!r}")
    slo = search.get("slo")
    if not isinstance(slo, Mapping) or set(slo) - {"ttft_ms", "tpot_ms", "e2e_ms", "quantile"}:
        raise PlanError("search.slo: an object of ttft_ms, tpot_ms, e2e_ms and quantile is needed")
    for name, value in slo.items():
        limit = 1.0 if name == "quantile" else math.inf
        if value is not None and not (_is_number(value) and 0 < value <= limit):
            raise PlanError(f"search.slo.{name}: {value!r} must be a positive number")
    fractions = search.get("fractions", (0.5,))
    if not isinstance(fractions, list | tuple) or not fractions:
        raise PlanError("search.fractions: a list of shares of the closed loop's throughput is needed")
    if not all(_is_number(value) and 0 < value <= 1.5 for value in fractions):
        raise PlanError("search.fractions: each must be above 0 and at most 1.5")
    most = search.get("max_concurrency", 1)
    if type(most) is not int or most < 1:
        raise PlanError("search.max_concurrency: must be a whole number >= 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
