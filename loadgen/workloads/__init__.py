"""Workload profiles: immutable, versioned documents that say what is asked of a server.

Belongs here: the documents (``*.yaml`` beside this file), reading, checking and hashing them.
Does not belong here: drawing prompts or arrivals from them (``prompts``, ``schedule``), judging results.

A profile's hash covers its whole canonical document; any change of lengths, load, windows or SLO makes a
new version. The document's fields: ``id``, ``description``, ``evidence_level``, ``loop`` (closed | open),
``arrival``, ``ladder`` (concurrencies, or arrivals a second), ``isl``/``osl`` (``{law: const, tokens:
n}``), ``stop`` (``ignore_eos``), ``text``, ``cache``, ``times_s`` (warmup, window, tail, request_timeout,
idle_timeout), ``slo`` or null, optional ``requests`` (a closed loop's window ends early once so many were
sent).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.plan import PlanError, Step

_FOLDER = Path(__file__).parent
_ID = re.compile(r"[a-z0-9][a-z0-9._-]*@[1-9][0-9]*")
_LEVELS = ("demo", "smoke", "standard", "publication")
_TIMES = ("warmup", "window", "tail", "request_timeout", "idle_timeout")
_OPTIONAL = ("requests",)
_REQUIRED = (
    "id",
    "description",
    "evidence_level",
    "loop",
    "arrival",
    "ladder",
    "isl",
    "osl",
    "stop",
    "text",
    "cache",
)
_FIELDS = frozenset((*_REQUIRED, "times_s", "slo", *_OPTIONAL))


@dataclass(frozen=True, slots=True)
class Workload:
    """A checked profile. Lengths in tokens, times in seconds; ``slo`` holds ttft_ms, tpot_ms, e2e_ms and
    quantile."""

    id: str
    hash: str
    document: Mapping[str, Any]
    ladder: list[tuple[str, float, str]]  # (load_kind, value, arrival)
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
    requests: int | None = None

    def steps(self) -> tuple[Step, ...]:
        """The ladder as the steps of a plan."""
        return tuple(
            Step(index, kind, value, self.warmup_s, self.window_s, self.tail_s, arrival)
            for index, (kind, value, arrival) in enumerate(self.ladder)
        )


def names() -> tuple[str, ...]:
    """Ids of the packaged profiles, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load(id_or_path: str | Path) -> Workload:
    """A packaged profile by id, or a document in a YAML or JSON file; raises ``PlanError`` naming what is
    wrong."""
    name = str(id_or_path)
    path = _FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        raise PlanError(f"workload: {name!r} is neither a file nor one of {', '.join(names())}")
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"workload {name}: {' '.join(str(error).split())}") from None
    workload = from_document(document)
    if path.parent != _FOLDER:
        _refuse_borrowed_names(workload)
    return workload


def _refuse_borrowed_names(workload: Workload) -> None:
    """A file of the user's may not pass for a packaged profile, nor claim more than a smoke test.

    Cells know a workload by its id alone, so a changed copy under the same id would take the original's place.
    """
    if workload.id in names() and load(workload.id).hash != workload.hash:
        raise PlanError(
            f"workload {workload.id}: this id is a packaged profile's; give the changed copy its own"
        )
    if workload.id not in names() and workload.evidence_level not in ("demo", "smoke"):
        raise PlanError(
            f"workload {workload.id}: evidence_level {workload.evidence_level} is for packaged profiles; use smoke"
        )


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
    except (TypeError, ValueError, AttributeError) as error:
        text = str(error) if isinstance(error, PlanError) else f"{type(error).__name__}: {error}"
        raise PlanError(f"{where}: {text}") from None


def _checked(document: Mapping[str, Any]) -> Workload:
    if unknown := set(document) - _FIELDS:
        raise PlanError(f"unknown field {sorted(unknown)[0]!r}")
    ident = document["id"]
    if not _ID.fullmatch(ident):
        raise PlanError(f"id: {ident!r} is not of the form family.variant@version")
    loop, arrival = document["loop"], document.get("arrival", "none")
    if loop not in ("closed", "open"):
        raise PlanError(f"loop: {loop!r} is neither closed nor open")
    if (loop == "closed" and arrival != "none") or (
        loop == "open" and arrival not in ("poisson", "constant")
    ):
        raise PlanError(f"arrival: {arrival!r} does not fit loop {loop}")
    if document["evidence_level"] not in _LEVELS:
        raise PlanError(f"evidence_level: {document['evidence_level']!r} is none of {', '.join(_LEVELS)}")
    if document["text"] != "random-words" or document["cache"] != "cold":
        raise PlanError("text, cache: only random-words with a cold cache is supported")
    ladder = [
        (loop, _number(document["ladder"][k], f"ladder[{k}]"), arrival)
        for k in range(len(document["ladder"]))
    ]
    if not ladder:
        raise PlanError("ladder: at least one step is needed")
    if loop == "closed" and any(value < 1 or value != int(value) for _, value, _ in ladder):
        raise PlanError("ladder: concurrencies must be whole numbers >= 1")
    times = {
        name: _number(document["times_s"][name], f"times_s.{name}", zero=name in ("warmup", "tail"))
        for name in _TIMES
    }
    requests = document.get("requests")
    if requests is not None and (loop == "open" or type(requests) is not int or requests < 1):
        raise PlanError("requests: a whole number >= 1, for a closed loop")
    slo = document["slo"]
    if slo is not None and set(slo) - {"ttft_ms", "tpot_ms", "e2e_ms", "quantile"}:
        raise PlanError("slo: only ttft_ms, tpot_ms, e2e_ms and quantile are known")
    return Workload(
        id=ident,
        hash=hashlib.sha256(canonical(document).encode()).hexdigest(),
        document=document,
        ladder=ladder,
        warmup_s=times["warmup"],
        window_s=times["window"],
        tail_s=times["tail"],
        isl=_length(document["isl"], "isl"),
        osl=_length(document["osl"], "osl"),
        ignore_eos=bool(document["stop"]["ignore_eos"]),
        evidence_level=document["evidence_level"],
        slo=slo,
        request_timeout_s=times["request_timeout"],
        idle_timeout_s=times["idle_timeout"],
        requests=requests,
    )


def _number(value: Any, name: str, *, zero: bool = False) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (value > 0 or (zero and value == 0))
    ):
        raise PlanError(f"{name}: {value!r} must be a {'non-negative' if zero else 'positive'} number")
    return float(value)


def _length(value: Mapping[str, Any], name: str) -> int:
    if value["law"] != "const" or set(value) != {"law", "tokens"}:
        raise PlanError(f"{name}: only {{law: const, tokens: n}} is supported")
    if type(value["tokens"]) is not int or not 1 <= value["tokens"] <= 1_000_000:
        raise PlanError(f"{name}.tokens: {value['tokens']!r} must be a whole number from 1 to 1000000")
    return value["tokens"]


def custom(
    *,
    concurrency: int | list[int] | None = None,
    rate: float | list[float] | None = None,
    isl: int = 256,
    osl: int = 128,
    duration_s: float = 60.0,
    warmup_s: float = 5.0,
    tail_s: float | None = None,
    arrival: str = "poisson",
    requests: int | None = None,
    ignore_eos: bool = True,
    evidence_level: str = "demo",
    slo: Mapping[str, Any] | None = None,
    request_timeout_s: float = 60.0,
    idle_timeout_s: float = 30.0,
) -> Workload:
    """A profile made of flags; its id ``custom.<8 hex>@1`` is the hash of everything else in its document.

    Exactly one of *concurrency* (closed loop) and *rate* (open loop, requests a second) must be given.
    *requests* ends a closed loop's window once so many were sent; in an open loop it sets the window to
    ``requests / rate``.
    """
    if (concurrency is None) == (rate is None):
        raise PlanError("concurrency, rate: exactly one of them must be given")
    values = concurrency if concurrency is not None else rate
    ladder = list(values) if isinstance(values, list) else [values]
    closed = concurrency is not None
    if requests is not None and not closed:
        if len(ladder) != 1 or not (isinstance(ladder[0], int | float) and ladder[0] > 0):
            raise PlanError("requests: with a rate, one positive rate must be given")
        duration_s = requests / ladder[0]
    document: dict[str, Any] = {
        "description": "made from flags",
        "evidence_level": evidence_level,
        "loop": "closed" if closed else "open",
        "arrival": "none" if closed else arrival,
        "ladder": ladder,
        "isl": {"law": "const", "tokens": isl},
        "osl": {"law": "const", "tokens": osl},
        "stop": {"ignore_eos": ignore_eos},
        "text": "random-words",
        "cache": "cold",
        "times_s": {
            "warmup": warmup_s,
            "window": duration_s,
            "tail": request_timeout_s if tail_s is None else tail_s,
            "request_timeout": request_timeout_s,
            "idle_timeout": idle_timeout_s,
        },
        "slo": dict(slo) if slo is not None else None,
    }
    if requests is not None and closed:
        document["requests"] = requests
    digest = hashlib.sha256(canonical(document).encode()).hexdigest()
    return from_document({"id": f"custom.{digest[:8]}@1", **document})
