"""No database, no paid launch; and no error text tells its password."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from accelbench_assets.budget.ledger import PostgresBudget
from accelbench_assets.errors import LaunchError
from accelbench_assets.settings_groups import BudgetSettings
from accelbench_assets.sqlkit.postgres import EmbeddedPostgres
from tests.budget.conftest import Rows, caps, take

pytestmark = pytest.mark.xdist_group("postgres")
CANARY = "canary-pw-7c1f"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(action: Callable[[], object]) -> LaunchError:
    """The refusal of *action*; neither it nor its traceback tells the password."""
    with pytest.raises(LaunchError) as caught:
        action()
    assert caught.value.code == "no_ledger"
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(caught.value.hint)
    assert CANARY not in shown
    return caught.value


@pytest.mark.parametrize(
    "action",
    [
        lambda budget: take(budget, "run-1"),
        lambda budget: budget.renew_run("run-1", 60),
        lambda budget: budget.settle_run("run-1"),
        lambda budget: budget.month_to_date(),
    ],
    ids=["reserve", "renew", "settle", "month"],
)
def test_a_server_that_is_not_there(action: Callable[[PostgresBudget], object]) -> None:
    port = closed_port()
    error = refused(lambda: action(caps(f"postgresql://me:{CANARY}@127.0.0.1:{port}/money")))
    assert f"127.0.0.1:{port}/money" in error.message
    assert "no database, no paid launch" in str(error.hint)


def test_a_wrong_password(postgres: EmbeddedPostgres) -> None:
    address = postgres.dsn.rsplit("@", 1)[1]
    error = refused(lambda: take(caps(f"postgresql://accelbench:{CANARY}@{address}"), "run-1"))
    assert "refused the login" in error.message


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://me:{CANARY}@127.0.0.1:port/x",
        f"postgresql://me:{CANARY}@[127.0.0.1/x",
        f"host=127.0.0.1 password={CANARY} nonsense",
        f"postgresql://me:12/{CANARY}@127.0.0.1/x",
        f"postgresql://me:{CANARY}/x@127.0.0.1/x",
    ],
)
def test_an_address_that_is_none(dsn: str) -> None:
    refused(lambda: take(caps(dsn), "run-1"))


def test_a_password_too_short_to_be_masked_costs_the_details() -> None:
    error = refused(lambda: take(caps(f"postgresql://me:conn@127.0.0.1:{closed_port()}/x"), "run-1"))
    assert "conn" not in error.message.lower().replace("connectiontimeout", "")
    assert "OperationalError" in error.message


def test_a_server_without_rights_or_with_a_newer_catalog(dsn: str, sql: Rows) -> None:
    name = f"poor_{dsn.rsplit('/t', 1)[1]}"
    sql(f"create role {name} login password '{CANARY}'")
    poor = dsn.split("//", 1)[0] + f"//{name}:{CANARY}@" + dsn.rsplit("@", 1)[1]
    assert "permission denied" in refused(lambda: take(caps(poor), "run-1")).message
    take(caps(dsn), "run-1")
    sql("drop table accelbench.budget_ledger")
    sql("insert into accelbench.schema_migrations (version, name, sha256) values (9999, '9999_new', 'x')")
    error = refused(lambda: take(caps(dsn), "run-2"))
    assert "made by a newer AccelBench" in error.message
    assert error.hint == "Upgrade AccelBench."


def test_a_database_that_only_reads(dsn: str, sql: Rows) -> None:
    take(caps(dsn), "run-1")
    sql(f"alter database {dsn.rsplit('/', 1)[1]} set default_transaction_read_only = on")
    assert "read-only" in refused(lambda: take(caps(dsn), "run-2")).message


# -- a server that stops answering ---------------------------------------------------------------------------


@contextmanager
def tunnel(port: int) -> Iterator[tuple[int, threading.Event]]:
    """A port that leads to *port* of this machine; after the event is set it holds everything back, like a server
    whose disk hangs: connections stand and nothing comes.
    """
    frozen = threading.Event()
    lines: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while (data := source.recv(65536)) and not frozen.is_set():
                target.sendall(data)
            if not frozen.is_set():
                target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            lines.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], frozen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for line in lines:
            line.close()


def test_a_server_that_hangs_is_given_up(
    postgres: EmbeddedPostgres, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelbench_assets.budget import connection

    monkeypatch.setattr(connection, "ANSWER_GRACE_S", 0.2)
    take(caps(dsn), "run-1")
    with tunnel(postgres.port) as (port, frozen):
        there = dsn.replace(f":{postgres.port}/", f":{port}/")
        with connection.transaction(there, 0.3) as line:
            assert connection.has_table(line)
        started = time.monotonic()

        def ask_and_wait() -> None:
            with connection.transaction(there, 0.3) as line:
                frozen.set()
                line.execute("select 1")

        with pytest.raises(LaunchError) as hung:
            ask_and_wait()
        assert hung.value.code == "no_ledger"
        silent = PostgresBudget(
            there, BudgetSettings(), timeout_s=1
        )  # and one that says nothing from the start
        with pytest.raises(LaunchError) as mute:
            silent.month_to_date()
        assert mute.value.code == "no_ledger"
        assert time.monotonic() - started < 60
