"""What a launch on rented machines must tell beside its figures: how long it took, and what was not watched.

Belongs here: NF-2's fifteen minutes from asking to the first request; whether accelerators were watched.
Does not belong here: the launch itself (``launch``), what the readings say (``telemetry.rules``).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from accelbench_assets.bench.rules.outcome import Verdict, verdict

if TYPE_CHECKING:
    import pyarrow as pa

FIRST_REQUEST_LIMIT_S = 900.0


def launch_rules(
    record: Mapping[str, Any], samples: pa.Table, *, accelerator_rows: int
) -> dict[str, Verdict]:
    """Verdicts by rule: ``first_request`` and, for machines with accelerators, ``accelerators_watched``."""
    rules = {"first_request": _first_request(record, samples)}
    if record.get("accelerator_kind") in ("gpu", "neuron"):
        rules["accelerators_watched"] = _watched(str(record["accelerator_kind"]), accelerator_rows)
    return rules


def _first_request(record: Mapping[str, Any], samples: pa.Table) -> Verdict:
    import pyarrow.compute as pc

    first = pc.min(samples.column("sent_at")).value if samples.num_rows else None
    if first is None:
        return verdict("warn", None, FIRST_REQUEST_LIMIT_S, "No request was sent.")
    asked = datetime.fromisoformat(record["requested_at"])
    seconds = first / 1e9 - asked.timestamp()
    text = f"The first request was sent {seconds:.0f} s after the run was asked for"
    if seconds > FIRST_REQUEST_LIMIT_S:
        return verdict("warn", seconds, FIRST_REQUEST_LIMIT_S, f"{text}: longer than a quarter of an hour.")
    return verdict("pass", seconds, FIRST_REQUEST_LIMIT_S, f"{text}.")


def _watched(kind: str, rows: int) -> Verdict:
    if rows:
        return verdict("pass", rows, 1, f"The {kind} accelerators of the node were watched beside the load.")
    exporter = "DCGM exporter" if kind == "gpu" else "neuron-monitor exporter"
    text = f"No {exporter} answered on the run's node: utilisation, memory, power and throttling are unknown."
    return verdict("warn", 0, 1, text)
