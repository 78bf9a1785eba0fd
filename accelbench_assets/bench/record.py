"""The ``runs`` record: one flat JSON-safe object an attempt, every field present, null where nothing is
known.

Belongs here: field names, ids, times as text, scrubbing, cost of the attempt. Does not belong here: when it
is written (``run``), where (``lake``).
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from accelbench_assets.bench.request import RunRequest
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.launch.base import utc_now
from accelbench_assets.scrub import scrub, url_without_credentials

Record = dict[str, Any]

_FREE = ("failure_text", "engine_args", "env", "reproduce_command")
"""Free text and maps a user fills: the fields in which a secret can stand. All others are ids, names, enums,
hashes, times and numbers: masking a word in one would make it another cell, engine or status."""
_FROM_SHARDS = ("loadgen_version", "schedule_hash", "prompts_hash")
_GIT_TIMEOUT_S = 5.0


def new_run_id() -> str:
    """A UUIDv7: unique everywhere and sorted by time."""
    import uuid_utils

    return str(uuid_utils.uuid7())


@cache
def run_fields() -> tuple[str, ...]:
    """Names of the ``runs`` table's fields, in its order."""
    return tuple(SCHEMAS["runs"].names)


@cache
def git_commit() -> str | None:
    """The commit of this checkout, ``-dirty`` if changed; ``None`` outside a checkout or without git."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def timestamp(at: datetime | None = None) -> str:
    """*at* (default now) as ISO-8601 UTC text with microseconds."""
    return (at or utc_now()).astimezone(UTC).isoformat(timespec="microseconds")


def json_safe(value: Any) -> Any:
    """*value* as JSON types: times, paths and other objects as text, NaN and infinities as null."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, Mapping):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_safe(v) for v in value]
    if hasattr(value, "item"):  # numpy scalars
        return json_safe(value.item())
    return str(value)


def clean(record: Mapping[str, Any], secrets: Sequence[str] = ()) -> Record:
    """*record* (or some of its fields) as JSON types and without secrets, where secrets can stand: in free text
    and in maps a user fills, in the texts of ``validity``, and as credentials in ``source_url``.
    """
    found: Record = {name: json_safe(value) for name, value in record.items()}
    for name in _FREE:
        if name in found:
            found[name] = _scrubbed(found[name], secrets)
    if found.get("validity"):
        found["validity"] = {
            rule: {**verdict, "text": _scrubbed(verdict.get("text"), secrets)}
            for rule, verdict in found["validity"].items()
        }
    if found.get("source_url"):
        found["source_url"] = url_without_credentials(found["source_url"])
    return found


def _scrubbed(value: Any, secrets: Sequence[str]) -> Any:
    """JSON value *value* with every text in it scrubbed; names of a map stay."""
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, dict):
        return {name: _scrubbed(one, secrets) for name, one in value.items()}
    return [_scrubbed(one, secrets) for one in value] if isinstance(value, list) else value


def new_attempt(request: RunRequest) -> Record:
    """The record as far as it is known before anything was started.

    ``origin`` is what can be said before a launcher has seen the engine: the truth server simulates, and on a
    cluster nothing is measured until it is proven. It is replaced by the launcher's own word as soon as it serves.
    """
    cell, workload = request.cell, request.workload
    deployment = cell.deployment
    record: Record = dict.fromkeys(run_fields())
    record |= {
        "run_id": request.run_id,
        "cell_id": cell.cell_id,
        "cell_key": cell.key_text,
        "suite_id": request.suite_id,
        "trial_index": request.trial_index,
        "evidence_level": request.evidence_level,
        "origin": "simulated" if cell.engine == "truth" or request.launcher_name == "eks" else "measured",
        "launcher": request.launcher_name,
        "instance_type": cell.instance,
        "model_id": request.model_id,
        "model_revision": cell.revision,
        "quantization": deployment.quantization,
        "kv_cache_dtype": deployment.kv_cache_dtype,
        "max_model_len": deployment.max_model_len,
        "engine": cell.engine,
        "engine_version": cell.engine_version,
        "tp": deployment.tp,
        "pp": deployment.pp,
        "dp": deployment.dp,
        "ep": deployment.ep,
        "replicas": deployment.replicas,
        "router": deployment.router,
        "prefix_caching": deployment.prefix_caching,
        "workload_id": workload.id,
        "workload_hash": workload.hash,
        "seed": request.seed,
        "load_kind": workload.ladder[0][0],
        "ladder": planned_ladder(request),
        "requested_at": timestamp(request.requested_at),
        "requested_by": request.requested_by,
        "git_commit": git_commit(),
        "dagster_run_id": request.dagster_run_id,
        "partition_key": cell.key_text,
        "triggered_by": request.triggered_by,
        "trigger_ref": request.trigger_ref,
        "reproduce_command": request.reproduce_command,
        "source_url": url_without_credentials(request.endpoint_url) if request.endpoint_url else None,
    }
    return clean(record)


def planned_ladder(request: RunRequest) -> list[dict[str, Any]]:
    """The steps as planned, each with the workload's SLO: judged without looking up the profile."""
    workload = request.workload
    return [
        {
            "step_index": step.step_index,
            "load_kind": step.load_kind,
            "load_value": step.load_value,
            "arrival": step.arrival,
            "warmup_s": step.warmup_s,
            "window_s": step.window_s,
            "tail_s": step.tail_s,
            "slo": dict(workload.slo) if workload.slo else None,
            "sessions": workload.sessions is not None,
        }
        for step in workload.steps()
    ]


def searched_ladder(request: RunRequest, shards: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps a capacity search took, in their order."""
    workload = request.workload
    return [
        {
            **{name: step[name] for name in ("step_index", "load_kind", "load_value", "arrival")},
            "kind": step.get("kind"),
            "warmup_s": workload.warmup_s,
            "window_s": workload.window_s,
            "tail_s": workload.tail_s,
            # The workload's own objective: what ranks must have met it. The searched one is in ``capacity``.
            "slo": dict(workload.slo) if workload.slo else None,
            "sessions": workload.sessions is not None,
        }
        for step in shards[0]["steps"]
    ]


def add_facts(record: Record, facts: Mapping[str, Any]) -> None:
    """What the launcher found out about target, model and engine; names that are no field are left out."""
    names = set(run_fields())
    record |= clean({name: value for name, value in facts.items() if name in names})


def add_shards(record: Record, shards: Sequence[Mapping[str, Any]]) -> None:
    """What the generator says of itself and of what it sent."""
    if shards:
        record |= {name: shards[0].get(name) for name in _FROM_SHARDS}
        record["client"] = json_safe([shard.get("client") for shard in shards])
        for name in ("capacity", "canary"):
            record[name] = json_safe(next((s[name] for s in shards if s.get(name)), None))


def add_cost(record: Record, usd_per_hour: float | None, seconds: float) -> None:
    """Cost of the attempt's whole wall time at the declared price, or why there is none."""
    if usd_per_hour is None:
        record["cost_missing_reason"] = (
            f"no price is known for instance {record['instance_type']}; none was declared"
        )
    else:
        record["run_cost_usd"] = usd_per_hour * seconds / 3600.0


def add_spent(record: Record, usd: Decimal | None) -> None:
    """What rented machines did cost, or that none was rented."""
    if usd is None:
        record["cost_missing_reason"] = "no machine was rented for this attempt"
    else:
        record["run_cost_usd"] = float(usd)
