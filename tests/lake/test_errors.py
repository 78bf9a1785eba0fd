"""What a user reads when the lake cannot be used: one clear sentence, soon, and nothing half-done."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accelbench_assets.errors import LakeError
from accelbench_assets.lake import s3
from accelbench_assets.lake.lake import Lake
from tests.support.lakes import BUCKET, S3_GROUP
from tests.support.runs import attempt, make_record, make_samples, put_run, put_shard, write_derived
from tests.support.seaweed import Seaweed
from tests.support.users import as_user

ROOT = Path(__file__).resolve().parents[2]


def one_sentence(error: LakeError) -> str:
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def test_full_disk(local_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record()
    local_lake.begin_attempt(attempt(record))
    put_shard(local_lake, record["run_id"], [make_samples(record["run_id"], 5)])
    shards = local_lake.verify_shards(record["run_id"], 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LakeError) as caught:
            local_lake.check_writable()
        assert one_sentence(caught.value).startswith("The disk is full: writing ")
        for doing in (
            lambda: local_lake.commit(record, shards),
            lambda: local_lake.finish({**record, "status": "failed"}),
            lambda: write_derived(local_lake, record),
            lambda: local_lake.begin_attempt(attempt(make_record())),
        ):
            with pytest.raises(LakeError, match=r"^The disk is full"):
                doing()
    assert local_lake.run_records() == []
    assert not list(Path(local_lake.storage.root).rglob(".*.tmp"))
    # With space again the attempt ends as it should and the samples are all there.
    assert [r["status"] for r in local_lake.reap("feedc0de", lambda _: False)] == ["infra_lost"]
    assert local_lake.read_incoming(record["run_id"]).num_rows == 5


def test_read_only_folder(local_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    put_run(local_lake, make_record())

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(LakeError) as caught:
        local_lake.check_writable()
    assert one_sentence(caught.value).startswith("No permission to write: ")


def test_folder_without_write_permission(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    code = (
        "import sys\n"
        "from accelbench_assets.errors import LakeError\n"
        "from accelbench_assets.lake.lake import Lake\n"
        "try:\n    Lake.open(sys.argv[1]).check_writable()\n"
        "except LakeError as error:\n    print(error)\n"
    )
    command = [*as_user("daemon"), sys.executable, "-c", code, (closed / "lake").as_uri()]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said.startswith("No permission to write: ")
    assert said.count("\n") == 1


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LakeError, match="Not a directory") as caught:
        Lake.open((tmp_path / "file" / "lake").as_uri()).check_writable()
    one_sentence(caught.value)


@pytest.fixture
def some_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-key")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("some_keys")
def test_unreachable_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        lake = Lake.open("s3://bucket/lake")
        began = time.monotonic()
        with pytest.raises(LakeError, match=r"S3 cannot be reached at http://127\.0\.0\.1:") as caught:
            lake.check_writable()
        with pytest.raises(LakeError, match="S3 cannot be reached"):
            lake.run_records()
        assert time.monotonic() - began < 60
    assert "secret" not in one_sentence(caught.value)


@pytest.mark.usefixtures("some_keys")
def test_an_s3_that_never_answers_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PROBE_TIMEOUT_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(LakeError, match="cannot be reached"):
            Lake.open("s3://bucket/lake").check_writable()
        assert time.monotonic() - began < 60


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(LakeError, match=r"No AWS credentials were found .* Set AWS_PROFILE"):
        Lake.open("s3://bucket/lake").check_writable()


@S3_GROUP
def test_wrong_bucket(s3_environment: Seaweed) -> None:
    lake = Lake.open("s3://no-such-bucket/lake")
    with pytest.raises(LakeError, match="The S3 bucket no-such-bucket does not exist") as caught:
        lake.check_writable()
    one_sentence(caught.value)
    with pytest.raises(LakeError, match="does not exist"):
        lake.begin_attempt(attempt(make_record()))


@S3_GROUP
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_key(s3_environment: Seaweed, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "wrong-wrong-wrong")
    with pytest.raises(LakeError, match=r"S3 denied writing .* Check the credentials") as caught:
        Lake.open(f"s3://{BUCKET}/lake").check_writable()
    assert "wrong" not in one_sentence(caught.value)


@S3_GROUP
def test_wrong_key_when_only_reading(s3_environment: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-wrong-wrong")
    with pytest.raises(LakeError, match="S3 denied"):
        Lake.open(f"s3://{BUCKET}/lake").run_records()


def test_s3_without_boto3_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(LakeError, match=r"boto3, which is not installed.*accelbench\[aws\]"):
        Lake.open("s3://bucket/lake").run_records()
