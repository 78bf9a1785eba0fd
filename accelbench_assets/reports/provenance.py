"""Where a result comes from: the record of a run in groups, and the attempts that left no result.

Belongs here: which fields of ``runs`` are shown under which heading, scrubbed once more before publication.
Does not belong here: writing records (``bench``), markup (``reports/templates``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelbench_assets.reports.data import Row
from accelbench_assets.reports.format import MISSING, moment, plain
from accelbench_assets.reports.results import judgement
from accelbench_assets.scrub import scrub

_GROUPS = {
    "Identity": "run_id cell_id cell_key suite_id trial_index block_id evidence_level origin hardware"
    " requested_by",
    "Host": "launcher region zone instance_type instance_count accelerator_kind accelerator_name"
    " accelerators_used node_name capacity_type host_fingerprint"
    " driver_version runtime_version neuron_sdk_version",
    "Model": "model_id model_revision weights_sha256 quantization weight_dtype kv_cache_dtype max_model_len",
    "Engine": "engine engine_version image_digest tp pp dp ep replicas router prefix_caching spec_decoding",
    "Load": "loadgen_version workload_id workload_hash schedule_hash prompts_hash seed load_kind",
    "Times": "requested_at provisioned_at image_pulled_at weights_loaded_at ready_at first_probe_at"
    " load_started_at load_finished_at committed_at torn_down_at"
    " provision_s image_pull_s weights_s compile_s ready_s overhead_s",
    "Evidence": "samples_rows samples_sha256 git_commit dagster_run_id partition_key triggered_by trigger_ref"
    " source_url",
    "Cost": "run_cost_usd price_point_id cost_missing_reason",
}
_DOCUMENTS = {
    "engine_args": "Engine arguments, read back",
    "env": "Environment, secrets masked",
    "ladder": "Ladder",
    "validity": "Validity rules",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One run in full: title, command that repeats it, fields by group (empty ones left out), JSON texts."""

    run_id: str
    cell_key: str
    origin: str
    evidence_level: str
    verdict: str
    reservations: tuple[str, ...]
    finished: str
    reproduce_command: str
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    documents: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt without a result: when, what, how it ended, and why."""

    run_id: str
    cell_key: str
    origin: str
    status: str
    code: str
    reason: str
    requested: str


def records(rows: Sequence[Row]) -> list[Record]:
    """The records of the runs shown, in the order given."""
    return [_record(row) for row in rows]


def attempts(rows: Sequence[Row]) -> list[Attempt]:
    """The attempts that ended in anything but a result."""
    return [
        Attempt(
            run_id=str(row["run_id"]),
            cell_key=plain(row["cell_key"]),
            origin=plain(row["origin"]),
            status=plain(row["status"]),
            code=plain(row["failure_code"]),
            reason=_why(row),
            requested=moment(row["requested_at"]),
        )
        for row in rows
    ]


def _why(row: Row) -> str:
    if row["failure_text"]:
        return scrub(str(row["failure_text"]))
    return " ".join(judgement(row["validity"], None)[1]) or MISSING


def _record(row: Row) -> Record:
    groups = []
    for title, fields in _GROUPS.items():
        pairs = tuple((f, scrub(plain(row[f]))) for f in fields.split() if row.get(f) is not None)
        if pairs:
            groups.append((title, pairs))
    verdict, reservations = judgement(row["validity"], None)
    return Record(
        run_id=str(row["run_id"]),
        cell_key=plain(row["cell_key"]),
        origin=plain(row["origin"]),
        evidence_level=plain(row["evidence_level"]),
        verdict=verdict,
        reservations=reservations,
        finished=moment(row["committed_at"]),
        reproduce_command=scrub(str(row["reproduce_command"] or "")),
        groups=tuple(groups),
        documents=tuple((title, scrub(_indented(row[f]))) for f, title in _DOCUMENTS.items() if row.get(f)),
    )


def _indented(document: Any) -> str:
    try:
        parsed = json.loads(document) if isinstance(document, str) else document
        return json.dumps(parsed, indent=2, ensure_ascii=False, default=str)
    except ValueError:
        return str(document)
