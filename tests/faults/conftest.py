"""One world for all cases, and the matrix as a table at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accelbench_assets.sqlkit.postgres import EmbeddedPostgres
from tests.faults.runner import Outcome
from tests.support.eks import EksWorld
from tests.support.lakes import BUCKET
from tests.support.seaweed import Seaweed

OUTCOMES: list[Outcome] = []


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EksWorld]:
    folder = tmp_path_factory.mktemp("faults")
    with (
        EmbeddedPostgres(folder / "postgres") as postgres,
        Seaweed(folder / "s3") as s3,
    ):
        s3.create_bucket(BUCKET)
        with EksWorld(folder, s3, dsn=postgres.dsn) as world:
            yield world


@pytest.fixture
def in_world(world: EksWorld, monkeypatch: pytest.MonkeyPatch) -> EksWorld:
    """The world, with this process's environment set to it: the reaper and the next run happen here."""
    for name, value in world.environment().items():
        if name.startswith(("ACCELBENCH_", "AWS_", "KUBECONFIG")):
            monkeypatch.setenv(name, value)
    return world


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not OUTCOMES:
        return
    write = terminalreporter.write_line
    write("")
    write(f"{'fault':66} {'run ended as':34} {'reaper removed':16} {'left':>4} {'next run':10} {'s':>5}")
    for one in OUTCOMES:
        ended = f"{one.status or 'never registered'}{f' ({one.code})' if one.code else ''}"
        reaped = ", ".join(one.reaped) or "-"
        write(
            f"{one.name[:66]:66} {ended[:34]:34} {reaped[:16]:16} {len(one.left):>4} {one.next_status[:10]:10}"
            f" {one.seconds:5.1f}{'  WRONG' if one.problem else ''}"
        )
