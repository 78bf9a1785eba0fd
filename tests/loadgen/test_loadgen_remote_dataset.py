"""The user's own requests in S3: fetched once, bounded, and refused in one sentence before anything is sent."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadgen import workloads
from loadgen.control import RunError
from loadgen.datasets.remote import Fetched
from loadgen.plan import PlanError
from tests.support.lakes import BUCKET, S3_GROUP
from tests.support.seaweed import Seaweed

from .conftest import Result, Truth, make_plan

Start = Callable[..., Truth]
Run = Callable[..., Result]
FAST = ("--ttft-ms", "10", "--gap-ms", "1")
ROWS = b"".join(b'{"prompt": "what is %d and %d?", "output_tokens": 3}\n' % (k, k + 1) for k in range(40))
OWN = workloads.custom(concurrency=2, text="dataset", isl=16, osl=3, duration_s=0.4, warmup_s=0.1)

pytestmark = S3_GROUP


@pytest.fixture
def put(s3_environment: Seaweed) -> Callable[[str, bytes], str]:
    def store(name: str, data: bytes) -> str:
        key = f"{uuid.uuid4().hex}/run_id=a b/{name}"
        s3_environment.client().put_object(Bucket=BUCKET, Key=key, Body=data)
        return f"s3://{BUCKET}/{key}"

    return store


def plan_of(url: str, dataset: str, **changes: Any) -> Any:
    return make_plan(url, OWN, dataset=dataset, null_server=False, **changes)


def folders() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("loadgen-dataset-*")}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_sends_what_lies_in_s3_and_records_its_address_and_hash(
    truth: Start, run: Run, put: Callable[[str, bytes], str], tmp_path: Path, workers: int
) -> None:
    address, temporary = put("own.jsonl", ROWS), tmp_path / "tmp"
    temporary.mkdir()
    plan = plan_of(truth(*FAST).url, address, workers=workers)
    result = run(plan, {**os.environ, "TMPDIR": str(temporary)})
    assert result.code == 0, result.error
    for shard in sorted(result.out.glob("shard=*/shard.json")):
        document = json.loads(shard.read_text())
        assert document["dataset"] == {
            "name": address,
            "sha256": hashlib.sha256(ROWS).hexdigest(),
            "rows": 40,
            "left_out": 0,
        }
    assert list(temporary.iterdir()) == [], "nothing is left of it"
    local = tmp_path / "own.jsonl"
    local.write_bytes(ROWS)
    hashes = result.shard["schedule_hash"], result.shard["prompts_hash"]
    again = run(plan_of(truth(*FAST).url, local.as_uri()))
    assert (again.shard["schedule_hash"], again.shard["prompts_hash"]) == hashes, "the same bytes from a file"
    assert again.shard["dataset"]["name"] == local.as_uri()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_wrong_with_it_is_told_by_its_address(
    truth: Start, run: Run, put: Callable[[str, bytes], str], workers: int
) -> None:
    address, server = put("own.jsonl", ROWS + b"{}\n"), truth(*FAST)
    result = run(plan_of(server.url, address, workers=workers), dict(os.environ))
    assert result.code == 2
    assert f"dataset {address}: 1 line cannot be used: line 41" in result.error
    records = list(
        result.out.glob("shard=*/shard.json")
    )  # of the worker that refused first; the other may have none
    assert records
    assert all("loadgen-dataset-" not in record.read_text() for record in records)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda address: address + "-gone", "there is no such object"),
        (lambda address: address.replace(BUCKET, "no-such-bucket"), "there is no such object"),
        (lambda address: address.rpartition("/")[0], "there is no such object"),
        (lambda address: f"s3://{BUCKET}", "must be of the form s3://bucket/key"),
    ],
)
def test_an_object_that_is_not_there_is_refused_before_anything_is_sent(
    truth: Start,
    run: Run,
    put: Callable[[str, bytes], str],
    change: Callable[[str], str],
    named: str,
) -> None:
    address, server = change(put("own.jsonl", ROWS)), truth(*FAST)
    result = run(plan_of(server.url, address), dict(os.environ))
    assert result.code == 2
    assert result.error.startswith(f"error: dataset {address}: ")
    assert named in result.error
    assert result.error.count("\n") == 1
    assert server.log() == {}


def test_workers_fetch_it_before_any_of_them_starts(
    truth: Start, run: Run, put: Callable[[str, bytes], str]
) -> None:
    address, server = put("own.jsonl", ROWS) + "-gone", truth(*FAST)
    result = run(plan_of(server.url, address, workers=2), dict(os.environ))
    assert (result.code, result.error) == (2, f"error: dataset {address}: there is no such object\n")
    assert not result.out.exists()


def test_no_permission_is_told(put: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    address, before = put("own.jsonl", ROWS), folders()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(PlanError, match=r"^dataset s3://.*: no permission to read it") as told:
        Fetched(address, lambda: None)
    assert "not-the-secret" not in str(told.value)
    assert folders() <= before


def test_it_is_bounded_in_size_and_time_and_ends_with_the_run(put: Callable[[str, bytes], str]) -> None:
    address, before = put("own.jsonl", ROWS), folders()
    with pytest.raises(PlanError, match="larger than"):
        Fetched(address, lambda: None, max_bytes=len(ROWS) - 1)
    with pytest.raises(PlanError, match="longer than 0 s"):
        Fetched(address, lambda: None, max_s=0.0)
    with pytest.raises(RunError, match="interrupted by SIGTERM"):
        Fetched(address, lambda: "interrupted by SIGTERM")
    assert folders() <= before
    found = Fetched(address, lambda: None, max_bytes=len(ROWS))
    assert found.path.read_bytes() == ROWS
    assert found.named(f"dataset {found.path}: odd") == f"dataset {address}: odd"
    found.remove()
    found.remove()
    assert folders() <= before


def test_an_empty_object_is_an_empty_file(put: Callable[[str, bytes], str]) -> None:
    found = Fetched(put("own.jsonl", b""), lambda: None)
    try:
        assert found.path.read_bytes() == b""
    finally:
        found.remove()
