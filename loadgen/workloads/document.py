"""A workload document, checked: its fields, their meaning and their limits.

Belongs here: the ``Workload`` made of a document, every check of one. Does not belong here: finding
documents (``workloads``), drawing from them (``contents``, ``lengths``, ``schedule``).

Fields: ``id``, ``description``, ``evidence_level``; ``loop`` (closed | open | both | offline: ``both`` is a
closed ladder whose open confirmation uses ``arrival``; ``offline`` keeps ``ladder[0]`` requests waiting until
``requests`` are done), ``arrival`` (``schedule.check_arrival``), ``ladder`` (concurrencies, or arrivals a
second); ``isl``/``osl`` (laws of ``lengths``), ``stop`` (``ignore_eos``), ``text``, ``cache`` (cold | live |
shared | measured | unknown, or ``{shared: s}`` with the designed share), ``times_s`` (warmup, window, tail,
request_timeout, idle_timeout), ``slo`` or null. Optional fields are those of ``_OPTIONAL``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadgen.lengths import Law, Lengths
from loadgen.plan import PlanError, Step
from loadgen.schedule import check_arrival
from loadgen.workloads import checks

_ID = re.compile(r"[a-z0-9][a-z0-9._-]*@[1-9][0-9]*")
LEVELS = ("demo", "smoke", "standard", "publication")
LOOPS = ("closed", "open", "both", "offline")
TEXTS = (
    "random-words", "natural", "documents", "instructions", "reasoning", "schema", "dialogue", "tool-loop",
    "block-hash", "dataset",
)  # fmt: skip
_OF_SESSIONS = ("dialogue", "tool-loop")
_WRITTEN = ("instructions", "reasoning", "dataset")  # as long as they are
CACHES = ("cold", "live", "shared", "measured", "unknown")
_TIMES = ("warmup", "window", "tail", "request_timeout", "idle_timeout")
_REQUIRED = (
    "id", "description", "evidence_level", "loop", "arrival", "ladder", "isl", "osl", "stop", "text", "cache",
    "times_s", "slo",
)  # fmt: skip
_OPTIONAL = {
    "requests": "a closed loop's window ends early once so many were sent",
    "requests_per_user": "the same, as a multiple of the concurrency",
    "warmup_rule": "time | state",
    "trials": "runs that make one published result",
    "open_fractions": "shares of the measured capacity that an open confirmation visits",
    "prefix": "{tokens, groups, zipf}: a prefix shared by all requests of a group",
    "sessions": "{turns, turn_tokens, think_s, context_tokens, sticky}",
    "cancel": "{share, expected_ms}: requests cancelled at a uniform share of an answer's expected life",
    "models": "{count, zipf}: requests spread over so many models",
    "trace": "{format, scaling}: the user's trace, scaled in time or thinned",
    "sampling": "fields of the request body that decide about sampling",
    "response_format": "json_schema",
    "connection": "keep | new: a new connection for every request",
    "http_version": "'1.1' | '2'",
    "api": "chat | completions",
    "requires": "what the user has to bring",
}
_FIELDS = frozenset((*_REQUIRED, *_OPTIONAL))


@dataclass(frozen=True, slots=True)
class Workload:
    """A checked profile. Lengths in tokens, times in seconds.

    ``isl`` and ``osl`` are the longest a request can have (a default where nothing bounds natural prompts);
    ``slo`` holds ttft_ms, tpot_ms, e2e_ms and quantile; ``ladder`` holds (load_kind, value, arrival).
    """

    id: str
    hash: str
    document: Mapping[str, Any]
    ladder: list[tuple[str, float, str]]
    warmup_s: float
    window_s: float
    tail_s: float
    isl: int
    osl: int
    ignore_eos: bool
    evidence_level: str
    slo: Mapping[str, Any] | None
    request_timeout_s: float
    idle_timeout_s: float
    requests: int | None
    lengths: Lengths
    loop: str
    open_arrival: str | None
    text: str
    cache: str
    cache_share: float | None
    warmup_rule: str = "time"
    trials: int = 1
    open_fractions: tuple[float, ...] = ()
    requests_per_user: int | None = None
    prefix: checks.Prefix | None = None
    sessions: checks.Sessions | None = None
    cancel: checks.Cancel | None = None
    models: checks.Models | None = None
    trace: checks.TraceUse | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    response_format: str | None = None
    fresh_connections: bool = False
    http_version: str = "1.1"
    api: str = "chat"
    requires: tuple[str, ...] = ()

    def steps(self) -> tuple[Step, ...]:
        """The ladder as the steps of a plan."""
        times = (self.warmup_s, self.window_s, self.tail_s)
        return tuple(
            Step(index, kind, value, *times, arrival, warmup_rule=self.warmup_rule)
            for index, (kind, value, arrival) in enumerate(self.ladder)
        )

    def total(self, step: Step) -> int | None:
        """Requests after which a closed step's window ends early."""
        if step.load_kind == "closed" and self.requests_per_user is not None:
            return self.requests_per_user * int(step.load_value)
        return self.requests


def canonical(document: Mapping[str, Any]) -> str:
    """Canonical JSON of a document: sorted keys, no spaces. The profile hash is its SHA-256."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def from_document(document: Any) -> Workload:
    """Check a parsed document; raises ``PlanError`` naming the first field that is missing or wrong."""
    if not isinstance(document, Mapping):
        raise PlanError("workload: the document must be a mapping")
    where = f"workload {document.get('id', '?')}"
    try:
        return _checked(document)
    except KeyError as error:
        raise PlanError(f"{where}: the field {error.args[0]!r} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        text = str(error) if isinstance(error, PlanError) else f"{type(error).__name__}: {error}"
        raise PlanError(f"{where}: {text}") from None


def _checked(document: Mapping[str, Any]) -> Workload:
    if unknown := set(document) - _FIELDS:
        raise PlanError(f"unknown field {min(unknown, key=str)!r}")
    for name in ("id", "evidence_level", "loop", "text"):
        if not isinstance(document[name], str):
            raise PlanError(f"{name}: {document[name]!r} is not a text")
    if not _ID.fullmatch(document["id"]):
        raise PlanError(f"id: {document['id']!r} is not of the form family.variant@version")
    for name, known in (("evidence_level", LEVELS), ("loop", LOOPS), ("text", TEXTS)):
        checks.one_of(document[name], known, name)
    ladder, open_arrival = _ladder(document)
    times = {
        name: checks.number(document["times_s"][name], f"times_s.{name}", zero=name in ("warmup", "tail"))
        for name in _TIMES
    }
    cache, share = _cache(document["cache"])
    parts = checks.optional_parts(document)
    lengths = Lengths(Law.parse(document["isl"], "isl"), Law.parse(document["osl"], "osl"))
    sessions: checks.Sessions | None = parts.get("sessions")
    workload = Workload(
        id=document["id"],
        hash=hashlib.sha256(canonical(document).encode()).hexdigest(),
        document=document,
        ladder=ladder,
        warmup_s=times["warmup"],
        window_s=times["window"],
        tail_s=times["tail"],
        isl=max(lengths.isl.largest, sessions.context_tokens if sessions is not None else 0),
        osl=lengths.osl.largest,
        ignore_eos=checks.flag(document["stop"]["ignore_eos"], "stop.ignore_eos"),
        evidence_level=document["evidence_level"],
        slo=checks.objective(document["slo"]),
        request_timeout_s=times["request_timeout"],
        idle_timeout_s=times["idle_timeout"],
        requests=_count(document, "requests"),
        requests_per_user=_count(document, "requests_per_user"),
        lengths=lengths,
        loop=document["loop"],
        open_arrival=open_arrival,
        text=document["text"],
        cache=cache,
        cache_share=share,
        **parts,
    )
    _agree(workload)
    return workload


def _ladder(document: Mapping[str, Any]) -> tuple[list[tuple[str, float, str]], str | None]:
    """(load_kind, value, arrival) of each step, and the law of open arrivals."""
    loop, arrival = document["loop"], document["arrival"]
    try:
        check_arrival(arrival)
    except ValueError as error:
        raise PlanError(str(error)) from None
    if (arrival == "none") != (loop in ("closed", "offline")):
        raise PlanError(f"arrival: {arrival!r} does not fit loop {loop}")
    if not isinstance(document["ladder"], list | tuple) or not document["ladder"]:
        raise PlanError("ladder: a list of at least one step is needed")
    values = [checks.number(value, f"ladder[{k}]") for k, value in enumerate(document["ladder"])]
    if arrival == "at_once" and any(value < 1 or value != int(value) for value in values):
        raise PlanError("ladder: arrival at_once takes whole numbers of requests")
    if loop == "open":
        return [("open", value, arrival) for value in values], arrival
    if any(value < 1 or value != int(value) for value in values):
        raise PlanError("ladder: concurrencies must be whole numbers >= 1")
    return [("closed", value, "none") for value in values], arrival if loop == "both" else None


def _cache(value: Any) -> tuple[str, float | None]:
    """The kind of cache and the designed share of cached prompt tokens."""
    if isinstance(value, Mapping):
        if set(value) != {"shared"}:
            raise PlanError("cache: the only mapping is {shared: share}")
        share = checks.number(value["shared"], "cache.shared")
        if share >= 1:
            raise PlanError("cache.shared: a share below 1 is needed")
        return "shared", share
    checks.one_of(value, CACHES, "cache")
    return value, 0.0 if value == "cold" else None


def _count(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is not None and (document["loop"] in ("open",) or type(value) is not int or value < 1):
        raise PlanError(f"{name}: a whole number >= 1, for a closed loop")
    return value


def _agree(w: Workload) -> None:
    """What fields demand of each other."""
    isl, osl = w.lengths.isl, w.lengths.osl
    law = (w.open_arrival or "").partition(":")[0]
    rules = (
        (w.text in _OF_SESSIONS, w.sessions is not None, f"sessions: text {w.text} and sessions go together"),
        (isl.kind == "natural", w.text in _WRITTEN, f"isl: law {isl.kind} does not fit text {w.text}"),
        (law == "trace", w.trace is not None, "trace: arrival trace and the field trace go together"),
        (
            w.prefix is not None or w.text == "block-hash",
            w.cache == "shared",
            "cache: shared goes with a prefix or with text block-hash, and with nothing else",
        ),
        (w.text == "schema", w.response_format is not None, "response_format: it goes with text schema"),
    )
    for one, other, text in rules:
        if one != other:
            raise PlanError(text)
    trace_lengths = isl.of_trace or osl.of_trace
    planned = law in ("trace", "steps", "at_once")
    ends = w.requests is not None and len(w.ladder) == 1
    demands = (
        (w.sessions is None or w.loop == "open", "sessions: they need an open loop"),
        (not trace_lengths or w.trace is not None, "isl, osl: law empirical needs a trace, knots or values"),
        (w.text != "block-hash" or isl.of_trace, "text: block-hash takes its lengths from the trace"),
        (not planned or w.warmup_rule == "time", f"warmup_rule: arrival {law} needs a fixed warm-up"),
        (w.text != "dataset" or w.requires, "requires: text dataset needs the user's requests"),
        (w.trace is None or w.requires, "requires: a trace is the user's"),
        (w.loop != "offline" or ends, "requests: an offline loop needs it, and one step"),
        (w.requests is None or w.requests_per_user is None, "requests: it excludes requests_per_user"),
        (not w.ignore_eos or osl.kind != "natural", "stop.ignore_eos: a natural answer stops by itself"),
        (w.prefix is None or isl.largest > w.prefix.tokens, "prefix.tokens: prompts must be longer"),
    )
    for holds, text in demands:
        if not holds:
            raise PlanError(text)
