"""The parts of a workload document that are records of their own, and the checks all fields share.

Belongs here: prefix, sessions, cancellations, models, trace, and what the user has to bring. Does not belong
here: what fields demand of each other (``document``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.lengths import Law
from loadgen.plan import PlanError

if TYPE_CHECKING:
    from loadgen.workloads.document import Workload

_FILE = "with --dataset FILE"
_BY_FILE = {
    "requests": f"your own requests, one JSON object a line (ShareGPT, OpenAI messages or plain prompts), {_FILE}",
    "sharegpt": f"ShareGPT conversations, one JSON object a line, {_FILE}; they are not part of this package",
    "azure-trace": f"an Azure LLM inference trace (CSV with TIMESTAMP, ContextTokens and GeneratedTokens) {_FILE}",
    "mooncake-trace": f"a Mooncake trace (JSON lines with timestamp, input_length, output_length and hash_ids) {_FILE}",
    "burstgpt-trace": f"a BurstGPT trace (CSV with Timestamp, Request tokens and Response tokens) {_FILE}",
}
_BY_LAUNCH = {
    "models": "several models behind one address, and the name of each",
    "gateway": "a SageMaker endpoint reached both directly and through the gateway, which no launcher here sets up",
    "starts": "a launcher that starts a fresh server for every trial; load on a running server cannot measure a start",
}
REQUIREMENTS = {**_BY_FILE, **_BY_LAUNCH}


@dataclass(frozen=True, slots=True)
class Prefix:
    """*tokens* at the start of every prompt that all requests of a group share; groups by Zipf's law."""

    tokens: int
    groups: int
    zipf: float


@dataclass(frozen=True, slots=True)
class Sessions:
    """Turns a session, the later turns' own tokens, log-normal think time in seconds, the context at which a
    session ends, and whether all its turns go to one replica over one connection."""

    turns: Law
    turn_tokens: Law
    think_mu: float
    think_sigma: float
    think_cap_s: float
    context_tokens: int
    sticky: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """*share* of the requests is cancelled; *expected_ms* is an answer's life where none could be measured."""

    share: float
    expected_ms: float


@dataclass(frozen=True, slots=True)
class Models:
    """Requests are spread over *count* models with weights ``1/rank^zipf`` (0: equally)."""

    count: int
    zipf: float


@dataclass(frozen=True, slots=True)
class TraceUse:
    """Format of the user's trace (azure, mooncake, burstgpt; ``None``: any) and how it meets a rate: ``time``
    scales it, ``thin`` drops arrivals."""

    format: str | None
    scaling: str


def number(value: Any, name: str, *, zero: bool = False) -> float:
    """*value* as a positive (or, with *zero*, non-negative) finite number."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not (value > 0 or (zero and value == 0))
    ):
        raise PlanError(f"{name}: {value!r} must be a {'non-negative' if zero else 'positive'} number")
    return float(value)


def whole(value: Any, name: str, least: int = 1) -> int:
    """*value* as a whole number of at least *least*."""
    if type(value) is not int or not least <= value <= 1_000_000:
        raise PlanError(f"{name}: {value!r} must be a whole number from {least} to 1000000")
    return value


def flag(value: Any, name: str) -> bool:
    """*value* as true or false."""
    if type(value) is not bool:
        raise PlanError(f"{name}: {value!r} must be true or false")
    return value


def one_of(value: Any, known: Sequence[str], name: str) -> str:
    """*value*, one of *known*."""
    if not isinstance(value, str) or value not in known:
        raise PlanError(f"{name}: {value!r} is none of {', '.join(known)}")
    return value


def objective(value: Any) -> Mapping[str, Any] | None:
    """A checked SLO or ``None``."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) - {"ttft_ms", "tpot_ms", "e2e_ms", "quantile"}:
        raise PlanError("slo: only ttft_ms, tpot_ms, e2e_ms and quantile are known")
    if not 0 < number(value["quantile"], "slo.quantile") < 1:
        raise PlanError(f"slo.quantile: {value['quantile']!r} is not between 0 and 1")
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        if value.get(name) is not None:
            number(value[name], f"slo.{name}")
    return value


def _record(value: Any, name: str, fields: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or set(value) != fields:
        raise PlanError(f"{name}: a mapping of {', '.join(sorted(fields))} is needed")
    return value


def optional_parts(document: Mapping[str, Any]) -> dict[str, Any]:
    """The optional fields of a document as keyword arguments of ``Workload``."""
    parts: dict[str, Any] = {}
    for name, check in _PARTS.items():
        if document.get(name) is not None:
            parts |= check(document[name])
    return parts


def _prefix(value: Any) -> dict[str, Any]:
    given = _record(value, "prefix", {"tokens", "groups", "zipf"})
    tokens, groups = whole(given["tokens"], "prefix.tokens"), whole(given["groups"], "prefix.groups")
    return {"prefix": Prefix(tokens, groups, number(given["zipf"], "prefix.zipf", zero=True))}


def _sessions(value: Any) -> dict[str, Any]:
    given = _record(value, "sessions", {"turns", "turn_tokens", "think_s", "context_tokens", "sticky"})
    think = _record(given["think_s"], "sessions.think_s", {"mu", "sigma", "cap"})
    if not isinstance(think["mu"], int | float) or abs(think["mu"]) > 10:
        raise PlanError("sessions.think_s.mu: a number from -10 to 10 is needed")
    laws = [Law.parse(given[name], f"sessions.{name}") for name in ("turns", "turn_tokens")]
    if any(law.kind == "natural" or law.of_trace for law in laws):
        raise PlanError("sessions: turns and turn_tokens need laws that give numbers")
    return {
        "sessions": Sessions(
            laws[0],
            laws[1],
            float(think["mu"]),
            number(think["sigma"], "sessions.think_s.sigma", zero=True),
            number(think["cap"], "sessions.think_s.cap"),
            whole(given["context_tokens"], "sessions.context_tokens"),
            flag(given["sticky"], "sessions.sticky"),
        )
    }


def _cancel(value: Any) -> dict[str, Any]:
    given = _record(value, "cancel", {"share", "expected_ms"})
    share = number(given["share"], "cancel.share")
    if share > 1:
        raise PlanError(f"cancel.share: {share} is more than all")
    return {"cancel": Cancel(share, number(given["expected_ms"], "cancel.expected_ms"))}


def _models(value: Any) -> dict[str, Any]:
    given = _record(value, "models", {"count", "zipf"})
    zipf = number(given["zipf"], "models.zipf", zero=True)
    return {"models": Models(whole(given["count"], "models.count"), zipf)}


def _trace(value: Any) -> dict[str, Any]:
    given = _record(value, "trace", {"format", "scaling"})
    if given["format"] is not None:
        one_of(given["format"], ("azure", "mooncake", "burstgpt"), "trace.format")
    return {"trace": TraceUse(given["format"], one_of(given["scaling"], ("time", "thin"), "trace.scaling"))}


def _sampling(value: Any) -> dict[str, Any]:
    known = {"temperature": 2.0, "top_p": 1.0, "top_k": 1e6, "min_p": 1.0, "repetition_penalty": 10.0}
    if not isinstance(value, Mapping) or not value or set(value) - set(known):
        raise PlanError(f"sampling: a mapping of some of {', '.join(known)} is needed")
    for name, found in value.items():
        if number(found, f"sampling.{name}", zero=True) > known[name]:
            raise PlanError(f"sampling.{name}: {found!r} exceeds {known[name]:g}")
    return {"sampling": dict(value)}


def _fractions(value: Any) -> dict[str, Any]:
    if not isinstance(value, list | tuple) or not value:
        raise PlanError("open_fractions: a list of shares of the capacity is needed")
    found = tuple(number(one, f"open_fractions[{k}]") for k, one in enumerate(value))
    if max(found) > 1.5:
        raise PlanError(f"open_fractions: {max(found)} is more than 1.5 times the capacity")
    return {"open_fractions": found}


def _requires(value: Any) -> dict[str, Any]:
    if not isinstance(value, list | tuple):
        raise PlanError("requires: a list is needed")
    return {
        "requires": tuple(one_of(item, tuple(REQUIREMENTS), f"requires[{k}]") for k, item in enumerate(value))
    }


_PARTS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "prefix": _prefix,
    "sessions": _sessions,
    "cancel": _cancel,
    "models": _models,
    "trace": _trace,
    "sampling": _sampling,
    "open_fractions": _fractions,
    "requires": _requires,
    "trials": lambda value: {"trials": whole(value, "trials")},
    "warmup_rule": lambda value: {"warmup_rule": one_of(value, ("time", "state"), "warmup_rule")},
    "response_format": lambda value: {"response_format": one_of(value, ("json_schema",), "response_format")},
    "connection": lambda value: {"fresh_connections": one_of(value, ("keep", "new"), "connection") == "new"},
    "http_version": lambda value: {"http_version": one_of(value, ("1.1", "2"), "http_version")},
    "api": lambda value: {"api": one_of(value, ("chat", "completions"), "api")},
}


def check_runnable(workload: Workload, *, dataset: str | None = None, models: int = 1) -> None:
    """Raise ``PlanError`` with what *workload* needs and was not given: a *dataset*, so many *models*, or
    something that load alone cannot bring about."""
    for name in workload.requires:
        met = dataset is not None if name in _BY_FILE else False
        if name == "models" and workload.models is not None:
            met = models >= workload.models.count
        if not met:
            raise PlanError(f"workload {workload.id}: it needs {REQUIREMENTS[name]}")
