"""The SQL files of the project: text, description, and what each reads.

Belongs here: loading ``sql/<kind>/*.sql``, finding dependencies with sqlglot, ordering by them.
Does not belong here: running them (``duck``, ``marts``), other dialects (``dialect``).

Kinds: ``marts`` (DuckDB), ``views`` and ``reports`` (portable subset), ``migrations`` (PostgreSQL).

A mart whose opening comment has a line ``-- stored: no`` is never kept: it is computed whenever it is read, and is a
view in PostgreSQL. That suits a join of two tables of which each grows by itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.paths import SQL_DIR

_NOT_STORED = re.compile(r"\s*(--[^\n]*\n)*?-- stored: no\b")


class SqlFileError(AccelBenchError):
    """A SQL file is missing, does not parse, or depends on itself."""


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One query. ``depends_on`` holds the names of tables, marts and views it reads, sorted, CTEs left out.

    ``sha256`` is of the parsed statement and of the views it reads: comments and layout do not change it.
    ``stored`` is false for a mart that is computed when read.
    """

    name: str
    text: str
    description: str
    depends_on: tuple[str, ...]
    sha256: str
    stored: bool = True


def _parsed(text: str) -> tuple[tuple[str, ...], str]:
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        tree = sqlglot.parse_one(text, dialect="duckdb")
    except SqlglotError as error:
        raise SqlFileError(f"The SQL does not parse: {str(error).splitlines()[0]}") from None
    ctes = {cte.alias_or_name for cte in tree.find_all(exp.CTE)}
    names = {table.name for table in tree.find_all(exp.Table) if table.name} - ctes
    return tuple(sorted(names)), hashlib.sha256(tree.sql("duckdb", comments=False).encode()).hexdigest()


def table_names(text: str) -> tuple[str, ...]:
    """Names of the tables a query reads, sorted, without its CTEs. ``SqlFileError`` if it does not parse."""
    return _parsed(text)[0]


@cache
def files_as_written(kind: str) -> tuple[SqlFile, ...]:
    """The files of a kind by name, with the dependencies their text has, views included."""
    files = []
    for path in sorted((SQL_DIR / kind).glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        first = text.lstrip().splitlines()[0] if text.strip() else ""
        if not first.startswith("--"):
            raise SqlFileError(f"{path}: the first line must be a comment that says what the query is for.")
        try:
            depends_on, sha256 = _parsed(text)
        except SqlFileError as error:
            raise SqlFileError(f"{path}: {error.message}") from None
        stored = _NOT_STORED.match(text) is None
        files.append(SqlFile(path.stem, text, first.lstrip("- ").rstrip(), depends_on, sha256, stored))
    return tuple(files)


@cache
def sql_files(kind: str) -> tuple[SqlFile, ...]:
    """The files of ``marts``, ``views`` or ``reports``, each after those of its kind that it reads.

    A mart that reads a view depends on what the view reads: views are not built, so no graph holds them.
    """
    files = files_as_written(kind)
    if kind == "marts":
        views = {view.name: view for view in files_as_written("views")}
        files = tuple(_without_views(file, views) for file in files)
    return tuple(in_order(files))


def sql_file(kind: str, name: str) -> SqlFile:
    """One file by name; ``SqlFileError`` lists the names there are."""
    for file in sql_files(kind):
        if file.name == name:
            return file
    known = ", ".join(f.name for f in sql_files(kind))
    raise SqlFileError(f"There is no {kind} query {name!r}; there are: {known}.")


def _without_views(file: SqlFile, views: Mapping[str, SqlFile]) -> SqlFile:
    """*file* depending on what its views read, its hash including theirs."""
    read = [views[name] for name in file.depends_on if name in views]
    if not read:
        return file
    names = {name for name in file.depends_on if name not in views}
    hashes = [file.sha256]
    for view in read:
        inner = _without_views(view, views)
        names |= set(inner.depends_on)
        hashes.append(inner.sha256)
    joint = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return SqlFile(file.name, file.text, file.description, tuple(sorted(names)), joint, file.stored)


def in_order(files: Iterable[SqlFile]) -> list[SqlFile]:
    """*files* so that each comes after those it reads; ``SqlFileError`` names a file that depends on
    itself.
    """
    waiting = {file.name: file for file in files}
    ordered: list[SqlFile] = []
    while waiting:
        ready = [f for f in waiting.values() if not set(f.depends_on) & (waiting.keys() - {f.name})]
        ready = [f for f in ready if f.name not in f.depends_on]
        if not ready:
            raise SqlFileError(f"The SQL files depend on each other: {', '.join(sorted(waiting))}.")
        ordered += ready
        for file in ready:
            del waiting[file.name]
    return ordered
