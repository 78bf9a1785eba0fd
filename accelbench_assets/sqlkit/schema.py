"""The catalog's schema in PostgreSQL: migrations applied once, views kept up to date.

Belongs here: ``sql/migrations``, ``sql/views`` and the marts that are not stored onto a connection, inside the
caller's transaction. Does not belong here: rows (``publish``), translation (``dialect``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from accelbench_assets.errors import PublishError
from accelbench_assets.paths import SQL_DIR
from accelbench_assets.sqlkit.dialect import to_postgres
from accelbench_assets.sqlkit.files import SqlFile, files_as_written, in_order, sql_files

SCHEMA = "accelbench"
MINIMUM_SERVER = 150_000

_LEDGER = """
create table if not exists schema_migrations (
  version integer primary key,
  name text not null unique,
  sha256 text not null,
  applied_at timestamptz not null default now()
)
"""


def apply_migrations(connection: Any) -> list[str]:
    """Apply the migrations that are missing, in order; their names.

    Raises ``PublishError`` when the server is too old, an applied file has changed, or the catalog was
    written by a newer version of AccelBench.
    """
    if connection.info.server_version < MINIMUM_SERVER:
        found = connection.info.server_version // 10_000
        raise PublishError(f"The catalog needs PostgreSQL 15 or newer; this server is {found}.")
    connection.execute(f"create schema if not exists {SCHEMA}")
    connection.execute(f"set local search_path to {SCHEMA}")
    connection.execute(_LEDGER)
    applied = dict(connection.execute("select name, sha256 from schema_migrations").fetchall())
    fresh = []
    for path in sorted((SQL_DIR / "migrations").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        known = applied.pop(path.stem, None)
        if known is None:
            connection.execute(text)
            connection.execute(
                "insert into schema_migrations (version, name, sha256) values (%s, %s, %s)",
                (int(path.stem.split("_", 1)[0]), path.stem, sha256),
            )
            fresh.append(path.stem)
        elif known != sha256:
            raise PublishError(
                f"Migration {path.stem} was changed after the catalog was made with it.",
                hint=f"An unreleased AccelBench made it. Drop schema {SCHEMA} and publish again.",
            )
    if applied:
        raise PublishError(
            f"The catalog was made by a newer AccelBench (it has migration {max(applied)}).",
            hint="Upgrade AccelBench.",
        )
    return fresh


def apply_views(connection: Any) -> list[str]:
    """Create or replace every view and every mart that is not stored, in order of dependency; the names of those that
    changed.

    An unchanged view is left alone (its comment holds the hash of its text), so that views of others on top
    of it live on. One whose columns changed is dropped first, and with it those of ours that read it; PostgreSQL
    refuses that while views of others depend on it.
    """
    import psycopg
    from psycopg import sql

    changed = []
    joined = [mart for mart in files_as_written("marts") if not mart.stored]
    views = in_order([*joined, *sql_files("views")])
    for place, view in enumerate(views):
        mark = f"{view.description} [{view.sha256[:16]}]"
        found = connection.execute(
            "select obj_description(to_regclass(%s), 'pg_class')", (f"{SCHEMA}.{view.name}",)
        ).fetchone()
        if found and found[0] == mark:
            continue
        text = to_postgres(view.text)
        try:
            with connection.transaction():
                connection.execute(f"create or replace view {view.name} as {text}")
        except psycopg.errors.InvalidTableDefinition:  # other columns than before
            for reader in reversed(_readers(view.name, views[place + 1 :])):
                connection.execute(f"drop view if exists {reader}")
            connection.execute(f"drop view {view.name}")
            connection.execute(f"create view {view.name} as {text}")
        literal = sql.Literal(mark)
        name = sql.Identifier(view.name)
        connection.execute(sql.SQL("comment on view {} is {}").format(name, literal))
        changed.append(view.name)
    return changed


def _readers(name: str, later: Sequence[SqlFile]) -> list[str]:
    """The views among *later*, which are in order, that read *name* or what reads it."""
    found: list[str] = []
    for view in later:
        if {name, *found} & set(view.depends_on):
            found.append(view.name)
    return found
