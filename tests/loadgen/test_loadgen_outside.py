"""Beyond plain loopback HTTP and a folder: S3, TLS, IPv6."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from loadgen import workloads
from loadgen.output import OutputError, open_sink

from ..support.certificate import certificate
from ..support.optional import missing
from ..support.seaweed import Seaweed
from .conftest import ENV, HANG_S, Result, Truth, make_plan

Start = Callable[..., Truth]
Run = Callable[..., Result]
FAST = ("--ttft-ms", "5", "--gap-ms", "1")


def quick(requests: int = 12) -> workloads.Workload:
    """A window that ends after so many requests, however long they take on this machine."""
    return workloads.custom(
        concurrency=2, isl=32, osl=8, duration_s=60.0, warmup_s=0.1, tail_s=30.0, requests=requests
    )


def test_an_unreachable_s3_is_told_after_few_tries(truth: Start, tmp_path: Path) -> None:
    """What took the port hangs up on everybody, and counts them."""
    callers: list[object] = []

    def hang_up() -> None:
        while True:
            try:
                connection, caller = taken.accept()
            except OSError:
                return
            connection.close()
            callers.append(caller)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        threading.Thread(target=hang_up, daemon=True).start()
        env = {
            **ENV,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{taken.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "n0t-a-real-secret",
        }
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
            "s3://b/p",
        ]
        flags = ["--concurrency", "1", "--isl", "32", "--osl", "4", "--duration", "0.2", "--warmup", "0"]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, env=env, timeout=HANG_S)
        taken.shutdown(socket.SHUT_RDWR)
    assert done.returncode == 1
    assert "s3://b/p" in done.stderr
    assert "to S3 failed" in done.stderr
    assert "n0t-a-real-secret" not in done.stdout + done.stderr
    assert 1 <= len(callers) <= 5, "nobody waits for what will not come"


def test_parts_go_to_a_real_s3_and_a_missing_bucket_is_told(truth: Start, tmp_path: Path) -> None:
    with Seaweed(tmp_path / "s3") as s3:
        s3.create_bucket("kept")
        env = {**ENV, **s3.environment()}
        base = [sys.executable, "-m", "loadgen", "run", "--url", truth(*FAST).url, "--model", "m"]
        flags = ["--concurrency", "1", "--isl", "32", "--osl", "4", "--duration", "0.2", "--warmup", "0"]
        good = subprocess.run(
            [*base, *flags, "--out", "s3://kept/a/b"], capture_output=True, text=True, env=env, timeout=HANG_S
        )
        assert good.returncode == 0, good.stderr
        prefix = "/a/b/shard=000/"
        assert [key for key in s3.keys("kept") if not key.endswith("/")] == [
            f"{prefix}part-000-000.parquet",
            f"{prefix}shard.json",
        ]
        shard = json.loads(
            s3.client().get_object(Bucket="kept", Key=f"{prefix}shard.json"[1:])["Body"].read()
        )
        part = s3.client().get_object(Bucket="kept", Key=f"{prefix}part-000-000.parquet"[1:])["Body"].read()
        assert hashlib.sha256(part).hexdigest() == shard["parts"][0]["sha256"]
        bad = subprocess.run(
            [*base, *flags, "--out", "s3://missing/a"],
            capture_output=True,
            text=True,
            env=env,
            timeout=HANG_S,
        )
        assert bad.returncode == 1
        assert "s3://missing/a" in bad.stderr
        assert bad.stderr.count("\n") == 1


def test_what_s3_no_longer_takes_is_kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with Seaweed(tmp_path / "s3") as s3:
        s3.create_bucket("kept")
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        sink = open_sink("s3://kept/run", "shard=000")
    with pytest.raises(OutputError, match="to S3 failed") as told:
        sink.put("part-000-000.parquet", b"rows")
    (kept,) = tmp_path.glob("loadgen-kept-*")
    assert str(kept) in str(told.value)
    assert (kept / "part-000-000.parquet").read_bytes() == b"rows"


def test_https_with_a_certificate(truth: Start, tmp_path: Path, run: Run) -> None:
    """A TLS relay in front of the ground-truth server; the certificate is trusted by SSL_CERT_FILE alone."""
    cert, key = certificate(tmp_path)
    relay = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _RELAY,
            truth("--ttft-ms", "20", "--gap-ms", "4").url.rpartition(":")[2],
            cert,
            key,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert relay.stdout is not None
        url = f"https://localhost:{int(relay.stdout.readline())}"
        good = run(make_plan(url, quick()), {"SSL_CERT_FILE": str(cert)})
        assert good.code == 0, good.error
        rows = good.measured()
        assert {(row["status"], row["output_tokens"]) for row in rows} == {("ok", 8)}
        for (
            row
        ) in rows:  # a machine that stood still gave all chunks to one read, whose stamp they then share
            alone = len(set(row["chunk_offset_us"])) > 1
            assert row["chunk_stamp"] == ("user" if alone else "shared")
        assert all(row["client_lag_p99_us"] is None for row in rows), "no read has the kernel's stamp"
        assert good.shard["client"]["stamp_source"] == "user"
        assert all(row["ttft_from_send_ms"] >= 19 for row in rows)
        assert sum(row["connection_reused"] for row in rows) >= len(rows) - 2
        bad = run(make_plan(url, quick()))
        assert bad.code == 1
        assert "cannot connect" in bad.error
        assert "certificate" in bad.error
    finally:
        relay.kill()
        relay.communicate()


_RELAY = """
import asyncio, ssl, sys
port, certificate, key = sys.argv[1:]
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def serve(reader, writer):
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", int(port))
    await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def test_ipv6(truth: Start, run: Run) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip(missing("an IPv6 loopback (::1)"))
    result = run(make_plan(truth(*FAST, "--host", "::1").url, quick()))
    assert result.code == 0, result.error
    assert {row["status"] for row in result.measured()} == {"ok"}
