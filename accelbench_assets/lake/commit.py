"""How an attempt becomes visible, all or nothing, and how one that died is mended.

Belongs here: the order of writes. The runs record is the single point of commit: it is created if absent, it
is the last thing an attempt writes, and no reader shows samples or derived rows of a run without a succeeded
one.

1. ``begin_attempt`` creates ``_incoming/run_id=…/attempt.json``; the generator writes its shards beside it.
2. ``commit`` moves the parts to ``raw_samples/``, copies ``shard.json`` there, creates the record, and tidies
up.
3. ``finish`` creates the record of any other end, moves parts of an interrupted commit back, and tidies up.
4. ``reap`` does 3 for attempts whose orchestrator died, and repeats whatever tidying a crash cut short.

``attempt.json`` is deleted last, so an interrupted step 2, 3 or 4 is found again; every step can be repeated.
Does not belong here: bytes (``storage``), layout (``io``).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from accelbench_assets.errors import LakeError
from accelbench_assets.lake import io, layout
from accelbench_assets.lake.storage import MissingKeyError, Storage
from accelbench_assets.lake.tables import EVIDENCE_LEVELS, ORIGINS, STATUSES

ATTEMPT_ONLY = ("pid", "lock", "host_name", "boot_id", "cluster", "namespace", "registered_at")
"""Fields of ``attempt.json`` that are no part of the runs record."""


def _check_record(record: Mapping[str, Any]) -> None:
    for name, allowed in (
        ("status", STATUSES),
        ("origin", ORIGINS),
        ("evidence_level", EVIDENCE_LEVELS),
    ):
        if record.get(name) not in allowed:
            raise LakeError(
                f"Run {record.get('run_id')}: {name} {record.get(name)!r} is not one of {', '.join(allowed)}."
            )
    io.runs_table([record])  # every other field fits its column


def begin_attempt(storage: Storage, record: Mapping[str, Any]) -> None:
    """See ``Lake.begin_attempt``."""
    run_id = record["run_id"]
    if storage.exists(layout.run_key(run_id)) or not storage.create(
        f"{layout.incoming_folder(run_id)}/attempt.json", io.dump_json(record)
    ):
        raise LakeError(f"Run {run_id} was begun before; every attempt needs a new run id.")


def amend_attempt(storage: Storage, run_id: str, facts: Mapping[str, Any]) -> None:
    """See ``Lake.amend_attempt``."""
    key = f"{layout.incoming_folder(run_id)}/attempt.json"
    storage.write(key, io.dump_json({**io.read_json(storage, key), **facts}))


def verify_shards(storage: Storage, run_id: str, shards: int) -> tuple[dict[str, Any], ...]:
    """See ``Lake.verify_shards``."""
    columnar = storage.arrow()
    return tuple(_verify_shard(storage, columnar, run_id, shard) for shard in range(shards))


def _verify_shard(storage: Storage, columnar: tuple[Any, str], run_id: str, shard: int) -> dict[str, Any]:
    folder = f"{layout.incoming_folder(run_id)}/shard={shard:03d}"
    try:
        manifest: dict[str, Any] = io.read_json(storage, f"{folder}/shard.json")
    except MissingKeyError:
        raise LakeError(f"Shard {shard} of run {run_id} left no shard.json: it did not finish.") from None
    if manifest.get("run_id") != run_id or manifest.get("shard") != shard:
        raise LakeError(f"{storage.url}/{folder}/shard.json belongs to another run or shard.")
    rows = 0
    for part in manifest["parts"]:
        key = f"{folder}/{part['name']}"
        digest = hashlib.sha256()
        try:
            for piece in storage.chunks(key):
                digest.update(piece)
        except MissingKeyError:
            raise LakeError(f"{storage.url}/{key} is listed in shard.json but missing.") from None
        if digest.hexdigest() != part["sha256"]:
            raise LakeError(f"{storage.url}/{key} has another SHA-256 than shard.json says: it was altered.")
        found = _row_count(storage, columnar, key)
        if found != part["rows"]:
            raise LakeError(f"{storage.url}/{key} has {found} rows, shard.json says {part['rows']}.")
        rows += found
    if rows != manifest["rows"]:
        raise LakeError(f"Shard {shard} of run {run_id} has {rows} rows, shard.json says {manifest['rows']}.")
    return manifest


def _row_count(storage: Storage, columnar: tuple[Any, str], key: str) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, base = columnar
    try:
        with filesystem.open_input_file(f"{base}/{key}") as file:
            return int(pq.read_metadata(file).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise LakeError(f"{storage.url}/{key} cannot be read as Parquet ({error}).") from None


def commit(storage: Storage, record: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]) -> None:
    """See ``Lake.commit``."""
    run_id = record["run_id"]
    parts = [part for shard in shards for part in shard["parts"]]
    digests = "".join(part["sha256"] for part in parts)
    record = {
        **record,
        # An imported result has no samples: nothing is not a hash of nothing.
        "samples_rows": sum(part["rows"] for part in parts) if parts else None,
        "samples_sha256": hashlib.sha256(digests.encode()).hexdigest() if parts else None,
        "committed_at": record.get("committed_at") or datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    _check_record(record)
    if record["status"] != "succeeded":
        raise LakeError(f"Run {run_id} ended as {record['status']}; only a succeeded run is committed.")
    if unfinished := [shard["shard"] for shard in shards if not shard.get("complete")]:
        raise LakeError(f"Run {run_id} cannot be committed: shard {unfinished[0]} is not complete.")
    if storage.exists(layout.run_key(run_id)):
        raise LakeError(f"Run {run_id} has a record already; nothing was changed.")
    incoming, published = layout.incoming_folder(run_id), layout.run_folder("raw_samples", record)
    for shard in shards:
        number = shard["shard"]
        for index, part in enumerate(shard["parts"]):
            storage.move(
                f"{incoming}/shard={number:03d}/{part['name']}",
                f"{published}/part-{number:03d}-{index:03d}.parquet",
            )
        storage.write(f"{published}/_shard-{number:03d}.json", io.dump_json(shard))
    if not storage.create(layout.run_key(run_id), io.dump_json(record)):
        raise LakeError(f"Run {run_id} was ended by someone else before its commit.")
    with contextlib.suppress(LakeError):  # it is committed; the reaper repeats the tidying
        _tidy(storage, record)


def finish(storage: Storage, record: Mapping[str, Any]) -> bool:
    """See ``Lake.finish``."""
    _check_record(record)
    if record["status"] == "succeeded":
        raise LakeError(f"Run {record['run_id']} succeeded; it must be committed, not merely recorded.")
    record = {
        **record,
        "committed_at": record.get("committed_at") or datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    created = storage.create(layout.run_key(record["run_id"]), io.dump_json(record))
    with contextlib.suppress(Exception):  # the record stands; the reaper repeats the tidying
        _tidy(storage, io.read_json(storage, layout.run_key(record["run_id"])))
    return created


def _tidy(storage: Storage, record: Mapping[str, Any]) -> None:
    """Bring the files of a recorded run where its status says they belong; ``attempt.json`` goes last."""
    from partitions.cell import CellError

    run_id = record["run_id"]
    incoming = layout.incoming_folder(run_id)
    if record["status"] == "succeeded":
        for key in storage.list(incoming):
            # Scraped pages are in the tables of metrics by now, a dataset was only on its way to the generator.
            if key.endswith("/shard.json") or "/scrape-" in key or "/dataset-" in key:
                storage.delete(key)
    else:
        with contextlib.suppress(CellError):  # a cell without a folder: no part can have been moved there
            _move_back(storage, incoming, layout.run_folder("raw_samples", record))
    storage.delete(f"{incoming}/attempt.json")


def _move_back(storage: Storage, incoming: str, published: str) -> None:
    for key in storage.list(published):
        name = key.rsplit("/", 1)[-1]
        if not name.startswith("part-"):
            continue
        shard, index = name.removeprefix("part-").removesuffix(".parquet").split("-")
        manifest = io.read_json(storage, f"{incoming}/shard={shard}/shard.json")
        storage.move(key, f"{incoming}/shard={shard}/{manifest['parts'][int(index)]['name']}")
    for key in storage.list(published):
        if "/_shard-" in key:
            storage.delete(key)


def read_shards(storage: Storage, run_id: str) -> tuple[dict[str, Any], ...]:
    """See ``Lake.shards``."""
    record = io.find_run(storage, run_id)
    if record is not None and record["status"] == "succeeded":
        keys = [k for k in storage.list(layout.run_folder("raw_samples", record)) if "/_shard-" in k]
    else:
        keys = [k for k in storage.list(layout.incoming_folder(run_id)) if k.endswith("/shard.json")]
    return tuple(io.read_json(storage, key) for key in keys)


def _attempts(storage: Storage) -> list[dict[str, Any]]:
    """Every readable ``attempt.json`` that names the run of its folder, by run id; no other can be ended."""
    found: list[dict[str, Any]] = []
    for key in storage.list("_incoming"):
        if key.endswith("/attempt.json") and key.count("/") == 2:
            with contextlib.suppress(LakeError):  # ended while we looked, cut short, or not to be read
                attempt = io.read_json(storage, key)
                if (
                    isinstance(attempt, dict)
                    and key == f"_incoming/run_id={attempt.get('run_id')}/attempt.json"
                ):
                    layout.check_run_id(attempt["run_id"])
                    found.append(attempt)
    return sorted(found, key=lambda a: str(a["run_id"]))


def read_attempt(storage: Storage, run_id: str) -> dict[str, Any] | None:
    """The registration of one attempt that was not tidied away yet."""
    try:
        found: dict[str, Any] = io.read_json(storage, f"{layout.incoming_folder(run_id)}/attempt.json")
    except MissingKeyError:
        return None
    return found


def open_attempts(storage: Storage) -> list[dict[str, Any]]:
    """See ``Lake.open_attempts``."""
    return [a for a in _attempts(storage) if not storage.exists(layout.run_key(a["run_id"]))]


def reap(
    storage: Storage, host_fingerprint: str, is_alive: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    """See ``Lake.reap``. An attempt that cannot be ended or tidied stays as it is and keeps no other from it."""
    ended: list[dict[str, Any]] = []
    for attempt in _attempts(storage):
        with contextlib.suppress(Exception):  # whatever one attempt holds: the next reaper tries it again
            if attempt.get("host_fingerprint") != host_fingerprint or is_alive(attempt):
                continue
            if (record := end_lost(storage, attempt, *DIED)) is not None:
                ended.append(record)
    return ended


DIED = ("orchestrator_died", "The process that ran this attempt died before it could record an end.")


def end_lost(storage: Storage, attempt: Mapping[str, Any], code: str, text: str) -> dict[str, Any] | None:
    """End a dead attempt; its record, or ``None`` if it had one already and was only tidied up."""
    key = layout.run_key(attempt["run_id"])
    if storage.exists(key):
        _tidy(storage, io.read_json(storage, key))
        return None
    record = {name: value for name, value in attempt.items() if name not in ATTEMPT_ONLY}
    record |= {
        "status": "infra_lost",
        "failure_code": code,
        "failure_text": text,
        "cost_missing_reason": "the run was closed by others, who cannot know how long its machines ran",
        "committed_at": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    return record if finish(storage, record) else None
