"""One short transaction on the ledger's database, bounded in every way, and its failures in one sentence.

Belongs here: connecting, time limits, the table's existence, error texts without secrets. Does not belong here: what
is read and written (``ledger``).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

from accelbench_assets.errors import AccelBenchError, LaunchError
from accelbench_assets.scrub import scrub

TIMEOUT_S = 15.0
MIGRATION_TIMEOUT_S = 60.0  # a publication may hold the migrations' lock that long
ANSWER_GRACE_S = 5.0
_TABLE = "accelbench.budget_ledger"
_HINT = "Check ACCELBENCH_DATABASE_URL and that the server is up: no database, no paid launch."


@contextlib.contextmanager
def transaction(dsn: str, timeout_s: float) -> Iterator[Any]:
    """A psycopg connection in one transaction, committed at the end; every statement sees what others committed.

    Connecting, every statement and every lock take at most *timeout_s* seconds each, and a server that stops
    answering is hung up on. Raises ``LaunchError`` (``no_ledger``).
    """
    import psycopg

    try:
        with psycopg.connect(dsn, connect_timeout=max(2, round(timeout_s)), autocommit=False) as connection:
            # Were the snapshot taken before the lock is granted, two reservations could not see each other.
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            with _hang_up_after(connection, 2 * timeout_s + ANSWER_GRACE_S):
                milliseconds = round(timeout_s * 1000)
                connection.execute(f"set local statement_timeout = {milliseconds}")
                connection.execute(f"set local lock_timeout = {milliseconds}")
                connection.execute("set local timezone = 'UTC'")
                yield connection
                connection.commit()
    except psycopg.Error as error:
        raise unusable(error, dsn) from None


@contextlib.contextmanager
def _hang_up_after(connection: Any, seconds: float) -> Iterator[None]:
    """Shut the socket down after *seconds*: the server's own time limits bind only a server that still works."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, hang_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def make_table(dsn: str, timeout_s: float) -> None:
    """Bring the database's schema up to date if it has no ledger yet, one process at a time, also beside a publication
    that does the same. Raises ``LaunchError`` (``no_ledger``).
    """
    from accelbench_assets.sqlkit.publish import ADVISORY_LOCK
    from accelbench_assets.sqlkit.schema import apply_migrations

    with transaction(dsn, timeout_s) as connection:
        if has_table(connection):
            return
    with transaction(dsn, max(timeout_s, MIGRATION_TIMEOUT_S)) as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        try:
            apply_migrations(connection)
        except AccelBenchError as error:
            raise LaunchError(
                f"There is no budget ledger: {error.message}", code="no_ledger", hint=error.hint
            ) from None


def has_table(connection: Any) -> bool:
    """Whether the ledger's table is there."""
    return connection.execute("select to_regclass(%s) is not null", (_TABLE,)).fetchone()[0] is True


def unusable(error: Exception, dsn: str) -> LaunchError:
    """*error* of the database as a ``LaunchError`` (``no_ledger``) that names the server and holds no secret."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        parts = {"port": "?"}
    where = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"
    # A password with an unescaped / or @ ends up in what is taken for the port or the database.
    if not re.fullmatch(r"[^@]*:[0-9,]+/[^@]*", where):
        return LaunchError(
            "The database URL of the budget ledger cannot be read.",
            code="no_ledger",
            hint="Write postgresql://user:password@host:port/database.",
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    secrets = [str(parts[name]) for name in ("password", "sslpassword") if parts.get(name)]
    text = scrub(lines[0], secrets)
    if any(secret in text for secret in secrets):  # too short to be masked without garbling the text
        text = type(error).__name__
    if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return LaunchError(
            f"The budget ledger at {where} did not answer in time ({text}).", code="no_ledger", hint=_HINT
        )
    kind = "refused the login" if "authentication failed" in text else "cannot be used"
    return LaunchError(f"The budget ledger at {where} {kind}: {text}.", code="no_ledger", hint=_HINT)
