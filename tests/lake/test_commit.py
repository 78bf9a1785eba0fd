"""The commit: whole or invisible, whatever dies and wherever; samples are never lost."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from accelbench_assets.errors import LakeError
from accelbench_assets.lake import io, layout
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.storage import LocalStorage
from tests.support.runs import HOST, attempt, make_record, make_samples, put_run, put_shard

ROWS = 7


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


class FragileStorage:
    """A storage whose process dies right after its *nth* call took effect (that is: before the next)."""

    def __init__(self, inner: Any, nth: int) -> None:
        self._inner, self._left = inner, nth
        self.url = inner.url

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*arguments: Any) -> Any:
            self._left -= 1
            result = method(*arguments)
            if self._left == 0:
                raise Killed
            return result

        return call

    @property
    def fired(self) -> bool:
        return self._left <= 0


def started(lake: Lake, shards: int = 2) -> dict[str, Any]:
    """An attempt whose generator is done: *shards* shards of two parts."""
    record = make_record()
    run_id = record["run_id"]
    lake.begin_attempt(attempt(record))
    for shard in range(shards):
        put_shard(lake, run_id, [make_samples(run_id, ROWS, i, shard) for i in range(2)], shard)
    return record


def sample_ids(table: Any) -> list[tuple[int, int, int]]:
    return sorted(zip(*(table.column(c).to_pylist() for c in ("shard", "step_index", "seq")), strict=True))


EVERY_SAMPLE = sorted(itertools.product(range(2), range(2), range(ROWS)))


def check_whole_or_nothing(lake: Lake, run_id: str) -> bool:
    """Whether the run is visible; if so, all of it must be."""
    record = lake.run_record(run_id)
    seen = lake.read_table("raw_samples")
    if record is None or record["status"] != "succeeded":
        assert seen.num_rows == 0
        return False
    assert sample_ids(seen) == EVERY_SAMPLE
    assert sample_ids(lake.samples(run_id)) == EVERY_SAMPLE
    assert [s["shard"] for s in lake.shards(run_id)] == [0, 1]
    return True


def check_mended(lake: Lake, run_id: str) -> None:
    """After the reaper: one record, and every sample in exactly one of the two places."""
    assert len(lake.run_records()) == 1
    assert lake.open_attempts() == []
    assert [k for k in lake.storage.list("_incoming") if k.endswith("attempt.json")] == []
    if check_whole_or_nothing(lake, run_id):
        assert lake.read_incoming(run_id).num_rows == 0
    else:
        assert sample_ids(lake.read_incoming(run_id)) == EVERY_SAMPLE
        assert len(lake.verify_shards(run_id, 2)) == 2
        assert lake.storage.list("raw_samples") == []


def test_a_committed_run_is_published_whole(lake: Lake) -> None:
    record = started(lake)
    run_id = record["run_id"]
    assert [a["run_id"] for a in lake.open_attempts()] == [run_id]
    assert sample_ids(lake.read_incoming(run_id)) == EVERY_SAMPLE
    lake.commit(record, lake.verify_shards(run_id, 2))
    check_mended(lake, run_id)
    found = lake.run_record(run_id)
    assert found is not None
    assert found["samples_rows"] == len(EVERY_SAMPLE)
    assert found["status"] == "succeeded"
    assert found["committed_at"]
    folder = layout.run_folder("raw_samples", record)
    assert [k.removeprefix(folder) for k in lake.storage.list(folder)] == [
        "/_shard-000.json",
        "/_shard-001.json",
        "/part-000-000.parquet",
        "/part-000-001.parquet",
        "/part-001-000.parquet",
        "/part-001-001.parquet",
    ]


def test_killed_at_every_storage_call_of_a_commit(lake: Lake) -> None:
    outcomes = set()
    lake.run_records()  # connected: the copies share the connection
    for nth in itertools.count(1):
        place = inside(lake, str(nth))
        record = started(place)
        shards = place.verify_shards(record["run_id"], 2)
        fragile = FragileStorage(place.storage, nth)
        with contextlib.suppress(Killed):
            Lake(fragile).commit(record, shards)  # type: ignore[arg-type]
        outcomes.add(check_whole_or_nothing(place, record["run_id"]))
        place.reap(HOST, lambda _: False)
        check_mended(place, record["run_id"])
        assert place.reap(HOST, lambda _: False) == []
        if not fragile.fired:
            break
    assert nth > 10
    assert outcomes == {True, False}


def inside(lake: Lake, name: str) -> Lake:
    """Another lake below *lake*, over the same connection."""
    storage = copy.copy(lake.storage)
    if isinstance(storage, LocalStorage):
        storage.root = storage.root / name
    else:
        storage.prefix = f"{storage.prefix}/{name}"  # type: ignore[attr-defined]
    storage.url = f"{storage.url}/{name}"
    return Lake(storage)


def test_a_reaper_that_is_killed_is_finished_by_the_next(local_lake: Lake) -> None:
    for nth in itertools.count(1):
        place = inside(local_lake, str(nth))
        record = started(place)
        shards = place.verify_shards(record["run_id"], 2)
        try:  # the commit dies when three of four parts have moved
            Lake(FragileStorage(place.storage, 6)).commit(record, shards)  # type: ignore[arg-type]
        except Killed:
            assert len(place.storage.list("raw_samples")) >= 3
        fragile = FragileStorage(place.storage, nth)
        with contextlib.suppress(Killed):
            Lake(fragile).reap(HOST, lambda _: False)  # type: ignore[arg-type]
        assert not check_whole_or_nothing(place, record["run_id"])
        place.reap(HOST, lambda _: False)
        check_mended(place, record["run_id"])
        if not fragile.fired:
            break
    assert nth > 10


def test_a_failed_commit_can_be_recorded_as_failed(local_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    record = started(local_lake)
    shards = local_lake.verify_shards(record["run_id"], 2)
    create = local_lake.storage.create

    def out_of_order(key: str, data: bytes) -> bool:
        raise LakeError("The storage is out of order.")

    monkeypatch.setattr(local_lake.storage, "create", out_of_order)
    with pytest.raises(LakeError, match="out of order"):
        local_lake.commit(record, shards)
    monkeypatch.setattr(local_lake.storage, "create", create)
    assert local_lake.finish({**record, "status": "failed", "failure_code": "lake"})
    check_mended(local_lake, record["run_id"])


def test_of_commit_and_reaper_one_wins(lake: Lake) -> None:
    record = started(lake)
    shards = lake.verify_shards(record["run_id"], 2)
    (lost,) = lake.reap(HOST, lambda _: False)
    assert lost["status"] == "infra_lost"
    assert "pid" not in lost
    with pytest.raises(LakeError, match="has a record already"):
        lake.commit(record, shards)
    check_mended(lake, record["run_id"])


def test_the_reaper_that_loses_the_race_changes_nothing(lake: Lake) -> None:
    record = started(lake)
    shards = lake.verify_shards(record["run_id"], 2)

    def commits_meanwhile(_: dict[str, Any]) -> bool:
        lake.commit(record, shards)
        return False

    assert lake.reap(HOST, commits_meanwhile) == []
    check_mended(lake, record["run_id"])
    assert check_whole_or_nothing(lake, record["run_id"])


def test_the_reaper_leaves_the_living_and_other_hosts_alone(lake: Lake) -> None:
    record = started(lake)
    asked: list[str] = []

    def alive(found: dict[str, Any]) -> bool:
        asked.append(found["run_id"])
        return True

    assert lake.reap("another", lambda _: False) == []
    assert lake.reap(HOST, alive) == []
    assert asked == [record["run_id"]]
    assert [a["run_id"] for a in lake.open_attempts()] == [record["run_id"]]


def test_attempts_beyond_help_keep_no_other_from_its_end(lake: Lake) -> None:
    def incoming(run_id: str, content: bytes) -> None:
        lake.storage.write(f"_incoming/run_id={run_id}/attempt.json", content)

    for place, content in enumerate((b'{"run_id": ', b"[]", b"{}", b"null", b'{"run_id": 7}', b"\xff")):
        incoming(f"00000000-broken-{place}", content)
    incoming("00000000-another", io.dump_json(attempt(make_record())))  # names a run that is not its folder's
    hopeless = make_record(origin="guessed")
    lake.begin_attempt(attempt(hopeless))
    strange = make_record()
    lake.begin_attempt(attempt({**strange, "cell_key": "****", "engine": "****"}))
    raising = make_record()
    lake.begin_attempt(attempt(raising))
    sound = started(lake)

    def alive(found: dict[str, Any]) -> bool:
        if found["run_id"] == raising["run_id"]:
            raise ValueError("a lock nobody can read")
        return False

    ended = lake.reap(HOST, alive)
    assert [record["run_id"] for record in ended] == [strange["run_id"], sound["run_id"]]
    assert {record["run_id"] for record in lake.run_records()} == {strange["run_id"], sound["run_id"]}
    left = [a["run_id"] for a in lake.open_attempts()]
    assert left == [hopeless["run_id"], raising["run_id"]]
    assert not lake.storage.exists(f"_incoming/run_id={strange['run_id']}/attempt.json")
    assert lake.reap(HOST, alive) == []


def test_a_record_whose_files_cannot_be_tidied_up_stands(local_lake: Lake) -> None:
    record = started(local_lake)
    shards = local_lake.verify_shards(record["run_id"], 2)
    with contextlib.suppress(Killed):  # dies when three of four parts have moved
        Lake(FragileStorage(local_lake.storage, 6)).commit(record, shards)  # type: ignore[arg-type]
    manifest = f"_incoming/run_id={record['run_id']}/shard=000/shard.json"
    local_lake.storage.write(manifest, b"{}")
    second = started(local_lake)
    for ends in (2, 0):
        assert len(local_lake.reap(HOST, lambda _: False)) == ends
        assert {r["run_id"] for r in local_lake.run_records()} == {record["run_id"], second["run_id"]}
    assert local_lake.open_attempts() == []


def test_an_attempt_has_one_end(lake: Lake) -> None:
    record = started(lake)
    assert lake.finish({**record, "status": "void", "failure_code": "errors"})
    assert not lake.finish({**record, "status": "failed"})
    found = lake.run_record(record["run_id"])
    assert found is not None
    assert found["status"] == "void"
    with pytest.raises(LakeError, match="begun before"):
        lake.begin_attempt(attempt(record))
    check_mended(lake, record["run_id"])
    with pytest.raises(LakeError, match="ended as void"):
        lake.samples(record["run_id"])


def test_a_run_cannot_begin_twice(local_lake: Lake) -> None:
    record = started(local_lake)
    with pytest.raises(LakeError, match="begun before"):
        local_lake.begin_attempt(attempt(record))


def corrupt(lake: Lake, key: str) -> None:
    content = bytearray(lake.storage.read(key))
    content[len(content) // 2] ^= 0xFF
    lake.storage.write(key, bytes(content))


def shorten(lake: Lake, key: str) -> None:
    lake.storage.write(key, lake.storage.read(key)[:-10])


def remove(lake: Lake, key: str) -> None:
    lake.storage.delete(key)


@pytest.mark.parametrize(
    ("damage", "file", "said"),
    [
        (corrupt, "part-0.parquet", "another SHA-256"),
        (shorten, "part-1.parquet", "another SHA-256"),
        (remove, "part-0.parquet", "is listed in shard.json but missing"),
        (remove, "shard.json", "left no shard.json"),
        (shorten, "shard.json", "not valid JSON"),
    ],
)
def test_a_damaged_shard_is_never_committed(
    lake: Lake, damage: Callable[[Lake, str], None], file: str, said: str
) -> None:
    record = started(lake)
    damage(lake, f"_incoming/run_id={record['run_id']}/shard=001/{file}")
    with pytest.raises(LakeError, match=said):
        lake.verify_shards(record["run_id"], 2)


def test_wrong_row_counts_are_noticed(local_lake: Lake) -> None:
    record = started(local_lake)
    key = f"_incoming/run_id={record['run_id']}/shard=000/shard.json"
    manifest = io.read_json(local_lake.storage, key)
    manifest["parts"][0]["rows"] += 1
    local_lake.storage.write(key, io.dump_json(manifest))
    with pytest.raises(LakeError, match=r"has 7 rows, shard\.json says 8"):
        local_lake.verify_shards(record["run_id"], 2)


def test_an_incomplete_shard_is_not_committed(local_lake: Lake) -> None:
    record = make_record()
    local_lake.begin_attempt(attempt(record))
    put_shard(local_lake, record["run_id"], [make_samples(record["run_id"], 3)], complete=False)
    with pytest.raises(LakeError, match="shard 0 is not complete"):
        local_lake.commit(record, local_lake.verify_shards(record["run_id"], 1))
    assert local_lake.read_incoming(record["run_id"]).num_rows == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "done"}, "status 'done' is not one of succeeded"),
        ({"origin": "guessed"}, "origin 'guessed'"),
        ({"evidence_level": None}, "evidence_level None"),
        ({"requested_at": "yesterday"}, "column requested_at"),
        ({"seed": "x"}, "column seed"),
        ({"cell_key": None}, "cell_key"),
    ],
)
def test_a_malformed_record_is_refused_before_anything_is_written(
    local_lake: Lake, change: dict[str, Any], said: str
) -> None:
    record = {**make_record(status="failed"), **change}
    with pytest.raises(LakeError, match=said):
        local_lake.finish(record)
    assert local_lake.run_records() == []


def test_a_succeeded_run_is_not_merely_recorded_nor_another_committed(local_lake: Lake) -> None:
    with pytest.raises(LakeError, match="must be committed"):
        local_lake.finish(make_record())
    with pytest.raises(LakeError, match="only a succeeded run"):
        local_lake.commit(make_record(status="void"), [])


def test_two_runs_do_not_disturb_each_other(lake: Lake) -> None:
    first, second = put_run(lake, make_record()), put_run(lake, make_record())
    assert lake.samples(first["run_id"]).num_rows == lake.samples(second["run_id"]).num_rows == 40
    assert lake.read_table("raw_samples").num_rows == 80
