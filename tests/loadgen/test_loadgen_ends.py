"""Every way a run can end other than well: exit code, one sentence, and what was measured is kept."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadgen import workloads
from loadgen.output import OutputError, open_sink
from tests.support.lakes import BUCKET, S3_GROUP
from tests.support.seaweed import Seaweed

from .conftest import ENV, HANG_S, Result, Truth, finish, make_plan, start_run

Start = Callable[..., Truth]
Run = Callable[..., Result]
FAST = ("--ttft-ms", "5", "--gap-ms", "1")
LONG_S = 200.0  # a window that only what is tested can end


def quick(duration_s: float = 0.3) -> workloads.Workload:
    return workloads.custom(concurrency=2, isl=32, osl=8, duration_s=duration_s, warmup_s=0.1)


def await_answers(process: subprocess.Popen[str], count: int) -> None:
    """Until so many requests have been answered, some of them in the window."""
    assert process.stdout is not None
    seen = None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["phase"] == "measure":
            if seen is None:
                seen = event["completed"]
            elif event["completed"] >= seen + count:
                return
    raise AssertionError(f"not {count} answers: {process.communicate(timeout=HANG_S)}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_was_measured(truth: Start, tmp_path: Path, number: signal.Signals) -> None:
    process, out = start_run(make_plan(truth(*FAST).url, quick(LONG_S)), tmp_path)
    await_answers(process, 10)
    process.send_signal(number)
    result = finish(process, out)
    assert result.code == 130
    assert number.name in result.error
    assert (result.shard["complete"], result.shard["reason"]) == (False, f"interrupted by {number.name}")
    assert result.shard["rows"] == len(result.rows) > 10
    assert sum(row["status"] == "cancelled" for row in result.rows) <= 2
    assert result.shard["steps"][0]["ok"] == sum(row["status"] == "ok" for row in result.measured()) > 0


def test_the_deadline_ends_a_run_and_keeps_its_samples(truth: Start, run: Run) -> None:
    result = run(make_plan(truth(*FAST).url, quick(LONG_S), deadline_s=5.0))
    assert result.code == 1
    assert "deadline of 5 s" in result.error
    assert result.shard["rows"] == len(result.rows) > 4, "more than the calibration"
    assert result.shard["complete"] is False


def test_a_server_that_dies_ends_the_run(truth: Start, tmp_path: Path) -> None:
    server = truth(*FAST)
    process, out = start_run(make_plan(server.url, quick(LONG_S)), tmp_path)
    await_answers(process, 1)
    server.process.kill()
    result = finish(process, out)
    assert result.code == 1
    assert "the server is gone" in result.error
    assert "refused" in result.error
    assert {"ok", "error"} <= {row["status"] for row in result.rows}
    assert result.shard["steps"][0]["failed_by_class"]["connect"] >= 10


def test_no_server_is_one_sentence(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = run(make_plan(url, quick()))
    assert result.code == 1
    assert result.error.strip().count("\n") == 0
    assert url in result.error
    assert "cannot connect: Connection refused" in result.error
    assert result.shard["complete"] is False


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers 401 and repeats the key it was shown."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(65536)
                heard.append(request)
                key = request.partition(b"Authorization: ")[2].partition(b"\r\n")[0]
                body = b'{"error":{"message":"bad key ' + key + b'"}}'
                kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                connection.sendall(b"HTTP/1.1 401 Unauthorized\r\n" + kind + body)

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_the_api_key_is_sent_and_never_shown(refusing: tuple[str, list[bytes]], run: Run) -> None:
    url, heard = refusing
    plan = make_plan(url, quick(), api_key_env="MY_KEY", headers={"x-team": "blue-team"})
    result = run(plan, {"MY_KEY": "sEcReT-12345"})
    assert result.code == 1
    assert b"Authorization: Bearer sEcReT-12345\r\n" in heard[0]
    assert b"x-team: blue-team\r\n" in heard[0]
    assert b"x-request-id: run-test-0-calibration-0\r\n" in heard[0]
    assert "HTTP 401: bad key" in result.error
    everything = result.error + (result.out / "shard=000" / "shard.json").read_text() + str(result.events)
    assert "sEcReT" not in everything
    assert "sEcReT" not in plan.to_json()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"workload_hash": "0" * 64}, "workload_hash"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE"),
        ({"headers": {"x": "a\r\nHost: b"}}, "headers"),
    ],
)
def test_wrong_plans_exit_2_before_anything_is_sent(
    truth: Start, run: Run, change: dict[str, str], names: str
) -> None:
    server = truth(*FAST)
    result = run(dataclasses.replace(make_plan(server.url, quick()), **change))
    assert result.code == 2
    assert names in result.error
    assert result.error.strip().count("\n") == 0
    assert server.log() == {}


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1", "http://u:p@127.0.0.1:1", "http://127.0.0.1:99999", "127.0.0.1:80"]
)
def test_wrong_urls_exit_2(run: Run, url: str) -> None:
    result = run(make_plan(url, quick()))
    assert result.code == 2
    assert "base_url" in result.error
    assert ":p@" not in result.error


def test_a_full_disk_is_told_in_one_sentence_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(str(tmp_path), "shard=000")
    sink.put("a.bin", b"x" * 100)
    written = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) <= 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, data[:50])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match=r"^The disk is full: writing .*b\.bin failed\. Free some space"):
        sink.put("b.bin", b"y" * 100)
    assert [path.name for path in (tmp_path / "shard=000").iterdir()] == ["a.bin"]


def test_a_failed_write_ends_the_command_with_1(truth: Start, tmp_path: Path) -> None:
    """ENOSPC injected in the real command: the second part does not fit any more, the first stays."""
    plan = make_plan(truth(*FAST).url, dataclasses.replace(quick(0.2), ladder=[("closed", 1.0, "none")] * 2))
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    code = (
        "import errno, os, sys\nreal, opened = os.open, os.fsync\n"
        "def full(path, *rest, **more):\n"
        "    if 'part-001' in str(path): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    return real(path, *rest, **more)\n"
        "os.open = full\nfrom loadgen.__main__ import main\nsys.exit(main())"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "run",
        "--plan",
        str(path),
        "--out",
        str(tmp_path / "out"),
        "--progress",
        "json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
    result = finish(process, tmp_path / "out")
    assert result.code == 1
    assert "The disk is full" in result.error
    assert [part["name"] for part in result.shard["parts"]] == ["part-000-000.parquet"]
    assert result.shard["complete"] is False
    assert "The disk is full" in result.shard["reason"]


def test_an_unforeseen_error_is_one_sentence_and_keeps_the_steps_before_it(
    truth: Start, tmp_path: Path
) -> None:
    plan = make_plan(truth(*FAST).url, dataclasses.replace(quick(0.2), ladder=[("closed", 1.0, "none")] * 2))
    path, out = tmp_path / "plan.json", tmp_path / "out"
    path.write_text(plan.to_json())
    code = (
        "import sys\nfrom loadgen.steps import StepRunner\nreal = StepRunner.run\n"
        "def odd(self, origin, emit):\n"
        "    if origin.step_index == 1: raise ValueError('nobody thought\\nof this')\n"
        "    return real(self, origin, emit)\n"
        "StepRunner.run = odd\nfrom loadgen.__main__ import main\nsys.exit(main())"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "run",
        "--plan",
        str(path),
        "--out",
        str(out),
        "--progress",
        "json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
    result = finish(process, out)
    said = "An error inside the load generator ended the run: ValueError: nobody thought of this."
    assert (result.code, result.error) == (1, f"error: {said}\n")
    assert (result.shard["complete"], result.shard["reason"]) == (False, said)
    assert [part["name"] for part in result.shard["parts"]] == ["part-000-000.parquet"]
    assert len(result.rows) == result.shard["rows"] > 0


@S3_GROUP
def test_a_place_in_s3_is_proved_before_the_load(s3_environment: Seaweed) -> None:
    from pyarrow import fs

    folder = f"{uuid.uuid4().hex}/_incoming/run_id=x"
    sink = open_sink(f"s3://{BUCKET}/{folder}", "shard=000")
    assert [key for key in s3_environment.keys(BUCKET, folder) if not key.endswith("/")] == []
    sink.put("part-000-000.parquet", b"rows")
    system = fs.S3FileSystem(endpoint_override=s3_environment.endpoint, region="us-east-1")
    with system.open_input_stream(f"{BUCKET}/{folder}/shard=000/part-000-000.parquet") as stream:
        assert stream.read() == b"rows"


@S3_GROUP
@pytest.mark.parametrize(
    ("bucket", "env"),
    [("no-such-bucket", {}), (BUCKET, {"AWS_SECRET_ACCESS_KEY": "wrong-wrong-wrong"}), ("B", {})],
)
def test_a_wrong_place_in_s3_ends_the_command_before_anything_is_sent(
    truth: Start, tmp_path: Path, s3_environment: Seaweed, bucket: str, env: dict[str, str]
) -> None:
    server = truth(*FAST)
    path = tmp_path / "plan.json"
    path.write_text(make_plan(server.url, quick(LONG_S)).to_json())
    command = [sys.executable, "-m", "loadgen", "run", "--plan", str(path), "--out", f"s3://{bucket}/x"]
    everything = {**ENV, **s3_environment.environment(), **env}
    done = subprocess.run(command, capture_output=True, text=True, env=everything, timeout=HANG_S)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: Writing s3://{bucket}/x/…/.probe-")
    assert done.stderr.strip().count("\n") == 0
    assert "wrong-wrong" not in done.stderr
    assert server.log() == {}


def test_the_ground_truth_server_ends_with_its_parent(truth: Start) -> None:
    server = truth(*FAST)
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(HANG_S) == 0


def test_the_ground_truth_server_says_that_it_is_simulated(truth: Start) -> None:
    from urllib.request import urlopen

    url = truth(*FAST).url
    for path, holds in (
        ("/health", b'"ok"'),
        ("/version", b'"accelbench-truth"'),
        ("/v1/models", b'"truth"'),
        ("/metrics", b"truth_requests_total 0"),
    ):
        with urlopen(url + path, timeout=HANG_S) as answer:
            assert answer.headers["x-accelbench-origin"] == "simulated"
            assert holds in answer.read()


def test_flags_make_a_plan(truth: Start, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "loadgen",
        "run",
        "--url",
        truth(*FAST).url,
        "--model",
        "m",
        "--out",
        str(tmp_path),
    ]
    flags = [
        "--rate",
        "40",
        "--arrival",
        "constant",
        "--isl",
        "32",
        "--osl",
        "4",
        "--requests",
        "10",
        "--warmup",
        "0",
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, env=ENV, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    shard = json.loads((tmp_path / "shard=000" / "shard.json").read_text())
    assert shard["steps"][0]["arrival"] == "constant"
    assert shard["steps"][0]["sent"] == shard["steps"][0]["ok"] == 10
    assert "samples written" in done.stdout
    wrong = subprocess.run(
        [*command, "--concurrency", "0"], capture_output=True, text=True, env=ENV, timeout=HANG_S
    )
    assert wrong.returncode == 2
    assert "--concurrency" in wrong.stderr
