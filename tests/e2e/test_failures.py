"""What goes wrong for real: one clear sentence, exit 1, nothing lost, nothing half-published, nothing left running."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.optional import missing

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("failures")]

# A window in which even a machine with many times more work than cores answers a request.
LOAD = ["--concurrency", "1", "--isl", "16", "--osl", "2", "--duration", "3", "--warmup", "0.2"]
RUN = ["run", "--model", "smollm2-135m-instruct", *LOAD]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "home")


def refused(cli: Cli, *words: str, code: int = 1, **environment: str) -> str:
    """Run a command that must fail; returns its one sentence, after checking that it is one."""
    cli.env |= environment
    done = cli.run(*words, expect=code)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    cli.wait_until_nothing_runs()
    return errors[0]


def statuses(cli: Cli) -> list[str]:
    return [run["status"] for run in cli.json("runs")["rows"]]


def test_wrong_model(cli: Cli) -> None:
    assert "no-such-model" in refused(cli, "run", "--model", "no-such-model", *LOAD)
    assert statuses(cli) == []


def test_busy_port(cli: Cli) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        assert f"Port {port}" in refused(cli, *RUN, "--port", port)
    assert statuses(cli) == ["failed"]


def test_missing_wheel(cli: Cli, tmp_path: Path) -> None:
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import importlib.metadata, importlib.util\n"
        "find, version = importlib.util.find_spec, importlib.metadata.version\n"
        "def hidden(name, *a):\n"
        "    return None if name.split('.')[0] == 'xllamacpp' else find(name, *a)\n"
        "def missing(name):\n"
        "    if name == 'xllamacpp':\n"
        "        raise importlib.metadata.PackageNotFoundError(name)\n"
        "    return version(name)\n"
        "importlib.util.find_spec, importlib.metadata.version = hidden, missing\n"
    )
    sentence = refused(cli, *RUN, PYTHONPATH=str(hide))
    assert "xllamacpp" in sentence


def test_unreachable_s3(cli: Cli) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "canary-secret-canary"}
    place = {"ACCELBENCH_LAKE": "s3://bucket/lake", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    sentence = refused(cli, *RUN, **place, **keys)
    assert "S3 cannot be reached" in sentence
    assert "canary-secret-canary" not in sentence


def test_dead_postgres_publishes_nothing_and_loses_nothing(cli: Cli) -> None:
    url = "postgresql://someone:canary-password@127.0.0.1:9/catalog"
    sentence = refused(cli, *RUN, ACCELBENCH_DATABASE_URL=url)
    assert "PostgreSQL at 127.0.0.1:9" in sentence
    assert "canary-password" not in sentence
    assert statuses(cli) == ["succeeded"]
    for path in cli.home.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert b"canary-password" not in path.read_bytes(), f"the password is in {path}"
    assert stat.S_IMODE(cli.home.stat().st_mode) & 0o077 == 0, (
        "the attempt's request is nobody else's to read"
    )


@pytest.mark.long
def test_the_run_after_a_dead_postgres_publishes_both(cli: Cli) -> None:
    refused(cli, *RUN, ACCELBENCH_DATABASE_URL="postgresql://someone@127.0.0.1:9/catalog")
    del cli.env["ACCELBENCH_DATABASE_URL"]
    cli.run(*RUN)
    assert statuses(cli) == ["succeeded", "succeeded"]
    assert len(cli.sql("select distinct run_id from benchmark_results")) == 2


def in_a_namespace_of_its_own(script: str, cli: Cli) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount, where the machine allows that; else skip, naming what is missing."""
    unshare = shutil.which("unshare")
    command = [unshare or "unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if (
        unshare is None
        or subprocess.run([*command, "true"], check=False, capture_output=True).returncode != 0
    ):
        pytest.skip(missing("a private mount namespace (unshare --mount) to fill a disk in"))
    words = [*command, "sh", "-euc", script]
    return subprocess.run(words, env=cli.env, capture_output=True, text=True, timeout=600, check=False)


def test_full_disk_keeps_the_attempt_for_the_reaper(cli: Cli, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    cli.env["ACCELBENCH_LAKE"] = str(lake)
    accelbench = f"{sys.executable} -m accelbench_assets.cli"
    done = in_a_namespace_of_its_own(
        f"cd {tmp_path}; mount -t tmpfs -o size=20k tmpfs {lake}; code=0\n"
        f"{accelbench} {' '.join(RUN)} || code=$?\n"
        f"mount -o remount,size=64m {lake}\n"
        f"{accelbench} reap -q; echo exit=$code; {accelbench} runs --json; {accelbench} sql --json "
        "'select count(*) as n from raw_samples'",
        cli,
    )
    assert done.returncode == 0, done.stderr
    assert "disk is full" in done.stderr, done.stderr
    assert "exit=1" in done.stdout
    documents = done.stdout.split("exit=1", 1)[1]
    decoder = json.JSONDecoder()
    runs, end = decoder.raw_decode(documents.strip())
    assert [run["status"] in ("failed", "infra_lost") for run in runs["rows"]] == [True]
    assert decoder.raw_decode(documents.strip()[end:].strip())[0]["rows"] == [{"n": 0}]
    cli.wait_until_nothing_runs()


def test_read_only_lake(cli: Cli, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    cli.env["ACCELBENCH_LAKE"] = str(lake)
    run = f"{sys.executable} -m accelbench_assets.cli {' '.join(RUN)}"
    done = in_a_namespace_of_its_own(
        f"cd {tmp_path}; mount -t tmpfs -o ro tmpfs {lake}; code=0; {run} || code=$?; echo exit=$code", cli
    )
    assert done.stdout.strip() == "exit=1", done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(lake) in errors[0]
    assert "No permission to write" in errors[0] or "read-only" in errors[0].lower()


def test_a_lake_that_is_a_file(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "a-file"
    place.write_text("not a folder")
    assert str(place) in refused(cli, *RUN, ACCELBENCH_LAKE=str(place))
    assert place.read_text() == "not a folder"
