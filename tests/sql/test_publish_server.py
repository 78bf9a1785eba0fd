"""Publishing to a server that is not there, does not answer in time or refuses: one sentence, no password in it."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest

from accelbench_assets.errors import PublishError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.settings import Settings
from accelbench_assets.sqlkit import publish
from tests.support.runs import make_record, put_run

pytestmark = pytest.mark.xdist_group("postgres")


def test_a_dead_server(local_lake: Lake) -> None:
    put_run(local_lake, make_record())
    began = time.monotonic()
    with pytest.raises(PublishError, match=r"PostgreSQL at 127.0.0.1:9/db cannot be used") as caught:
        publish.publish(local_lake, "postgresql://someone:hunter2hunter2@127.0.0.1:9/db")
    assert time.monotonic() - began < 60
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_password_is_said_and_not_shown(local_lake: Lake, dsn: str) -> None:
    user, _, rest = dsn.partition("@")
    wrong = f"{user.rsplit(':', 1)[0]}:hunter2hunter2@{rest}"
    with pytest.raises(PublishError, match="refused the login") as caught:
        publish.publish(local_lake, wrong)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.__cause__)


def test_a_publisher_that_waits_too_long_gives_up(
    local_lake: Lake, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "STATEMENT_TIMEOUT_S", 1)
    with psycopg.connect(dsn) as other:
        other.execute("select pg_advisory_xact_lock(%s)", (publish.ADVISORY_LOCK,))
        with pytest.raises(PublishError, match="did not answer in time"):
            publish.publish(local_lake, dsn)
    publish.publish(local_lake, dsn)


@pytest.mark.parametrize("bad", ["nonsense", "postgresql://u:p@[/db", "mysql://u:hunter2hunter2@h/db"])
def test_a_malformed_url_is_one_sentence(local_lake: Lake, bad: str) -> None:
    with pytest.raises(PublishError) as caught:
        publish.publish(local_lake, bad)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_catalog_is_the_server_that_is_set(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql://u:p@example/db")
    with publish.catalog_dsn(settings) as dsn:
        assert dsn == "postgresql://u:p@example/db"
    assert list(tmp_path.iterdir()) == []
