"""A run's lock tells the living from the dead, whatever happened to the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.host import host_fingerprint
from accelbench_assets.launch.locks import RunLock, describe_lock, is_alive, machine_to_itself


def test_alive_while_held_and_dead_after(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, "run-1")
    attempt = lock.describe()
    assert not is_alive(attempt)
    with lock:
        assert is_alive(attempt)
        with pytest.raises(LaunchError, match="run-1 is already being worked on") as caught:
            RunLock(tmp_path, "run-1").acquire()
        assert caught.value.code == "busy"
        assert is_alive(attempt), "asking must not take the lock away"
    assert not is_alive(attempt)
    assert not lock.path.exists()


def test_a_killed_holder_is_dead_though_its_file_remains(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from accelbench_assets.launch.locks import RunLock\n"
        "lock = RunLock(Path(sys.argv[1]), 'run-2')\n"
        "lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    attempt = RunLock(tmp_path, "run-2").describe()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_alive(attempt)
        holder.kill()
        holder.wait(timeout=60)
    assert Path(attempt["lock"]).exists()
    assert not is_alive(attempt)


def test_an_engine_that_survives_does_not_hold_the_lock(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, "run-3")
    lock.acquire()
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as child:
        lock.release()
        assert not is_alive(lock.describe())
        RunLock(tmp_path, "run-3").acquire()
        child.kill()


def test_another_machine_counts_as_alive(tmp_path: Path) -> None:
    attempt = {**RunLock(tmp_path, "run-4").describe(), "host_fingerprint": "00000000"}
    assert host_fingerprint() != "00000000"
    assert is_alive(attempt)
    assert not is_alive({"host_fingerprint": host_fingerprint(), "lock": None})


def test_two_hosts_of_one_machine_id_leave_each_other_alone(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, "run-6")
    attempt = lock.describe()
    assert not is_alive(attempt)
    assert is_alive({**attempt, "host_name": "another-pod-of-the-image"})
    lock.acquire()
    assert is_alive(attempt)
    lock.release()


def test_after_a_restart_only_a_lock_that_is_there_proves_a_death(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, "run-7")
    earlier = {**lock.describe(), "boot_id": "00000000-0000-4000-8000-000000000000"}
    assert is_alive(earlier), "the file may lie on another machine's disk"
    with lock:
        assert is_alive(earlier)
    lock.path.touch()
    assert not is_alive(earlier)


def test_attempts_of_older_versions_are_judged_as_before(tmp_path: Path) -> None:
    new = RunLock(tmp_path, "run-8").describe()
    old = {name: new[name] for name in ("host_fingerprint", "pid", "lock")}
    assert not is_alive(old)
    with RunLock(tmp_path, "run-8"):
        assert is_alive(old)


def test_a_lock_of_any_path_can_be_described(tmp_path: Path) -> None:
    said = describe_lock(tmp_path / "x.lock")
    assert said["lock"] == str(tmp_path / "x.lock")
    assert said["pid"] == os.getpid()
    assert said["host_name"] == platform.node()
    assert said["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file where a folder should be")
    with pytest.raises(LaunchError, match=r"[Mm]aking the run's lock") as caught:
        RunLock(tmp_path, "run-5").acquire()
    assert caught.value.code == "no_permission"


def test_one_engine_at_a_time_on_a_machine(tmp_path: Path) -> None:
    with (
        machine_to_itself(tmp_path, "first"),
        pytest.raises(LaunchError, match="run first") as refused,
        machine_to_itself(tmp_path, "second", wait_s=0.2),
    ):
        pass
    assert refused.value.code == "busy"
    with machine_to_itself(tmp_path, "third", wait_s=0.2):
        pass
