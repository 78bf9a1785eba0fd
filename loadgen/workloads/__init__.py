"""Workload profiles: immutable, versioned documents that say what is asked of a server.

Belongs here: the documents (``*.yaml`` beside this file) and the texts they use, reading and making them.
Does not belong here: checking one (``document``), drawing prompts or arrivals from one (``contents``,
``schedule``), judging results.

A profile's hash covers its whole canonical document; any change of lengths, load, windows or SLO makes a
new version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadgen.plan import PlanError
from loadgen.workloads.checks import REQUIREMENTS, check_runnable
from loadgen.workloads.document import Workload, canonical, from_document

__all__ = [
    "REQUIREMENTS",
    "Workload",
    "canonical",
    "check_runnable",
    "custom",
    "from_document",
    "load",
    "names",
]

_FOLDER = Path(__file__).parent


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
    text: str = "random-words",
    api: str = "chat",
    http_version: str = "1.1",
    fresh_connections: bool = False,
) -> Workload:
    """A profile made of flags; its id ``custom.<8 hex>@1`` is the hash of everything else in its document.

    Exactly one of *concurrency* (closed loop) and *rate* (open loop, requests a second) must be given.
    *requests* ends a closed loop's window once so many were sent; in an open loop it sets the window to
    ``requests / rate``. With *text* ``dataset`` the user's requests are sent as they are, answers of natural
    length up to *osl*; ``natural`` takes packaged English instead of random words.
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
    own = text == "dataset"
    document: dict[str, Any] = {
        "description": "made from flags",
        "evidence_level": evidence_level,
        "loop": "closed" if closed else "open",
        "arrival": "none" if closed else arrival,
        "ladder": ladder,
        "isl": {"law": "natural"} if own else {"law": "const", "tokens": isl},
        "osl": {"law": "natural", "cap": osl} if own else {"law": "const", "tokens": osl},
        "stop": {"ignore_eos": ignore_eos and not own},
        "text": text,
        "cache": "measured" if own else "cold",
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
    usual = {"api": (api, "chat"), "http_version": (http_version, "1.1")}
    usual["connection"] = ("new" if fresh_connections else "keep", "keep")
    document |= {name: value for name, (value, default) in usual.items() if value != default}
    if own:
        document["requires"] = ["requests"]
    digest = hashlib.sha256(canonical(document).encode()).hexdigest()
    return from_document({"id": f"custom.{digest[:8]}@1", **document})
