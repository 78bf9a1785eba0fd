"""Builds the site: page to data to HTML, and the files put in place so that no reader meets half a site.

Belongs here: rendering the templates, naming assets by their content, replacing the files of the site.
Does not belong here: what a table or chart shows (``results``, ``chart``, ``provenance``), uploading.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelbench_assets.errors import AccelBenchError, describe_os_error
from accelbench_assets.lake.tables import EVIDENCE_LEVELS
from accelbench_assets.paths import REPORTS_DIR
from accelbench_assets.reports import chart, format
from accelbench_assets.reports.data import Row, run_queries
from accelbench_assets.reports.pages import read_page
from accelbench_assets.reports.provenance import attempts, records
from accelbench_assets.reports.results import COLUMNS, QUANTILES, Result, header_groups, results

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from accelbench_assets.lake.lake import Lake


@dataclass(frozen=True, slots=True)
class SiteReport:
    """What was built: the pages (the one to open first), bytes of all files, rows of the results table."""

    pages: tuple[Path, ...]
    bytes: int
    rows: int


def build_site(lake: Lake, out_dir: Path, *, now: datetime) -> SiteReport:
    """Build the report site of *lake* in *out_dir*; *now* is printed as the build time.

    Raises ``AccelBenchError`` when a query fails or a file cannot be written; the old site then stays.
    """
    from accelbench_assets.sqlkit.duck import connect

    connection = connect(lake)
    try:
        return write_site(connection, out_dir, now=now, lake_url=lake.url)
    finally:
        connection.close()


def write_site(connection: DuckDBPyConnection, out_dir: Path, *, now: datetime, lake_url: str) -> SiteReport:
    """As :func:`build_site`, on a connection that already has the lake's tables and views."""
    page = read_page(REPORTS_DIR / "pages" / "index.md")
    answers = run_queries(connection, page)
    rows = results(answers)
    try:
        with _locked(out_dir):
            names = _write_assets(out_dir / "assets", with_chart=bool(rows))
            html = _render(page.prose_html, answers, rows, names, now=now, lake_url=lake_url)
            _replace(out_dir / "index.html", html.encode())
            _remove_old(out_dir / "assets", set(names.values()))
            size = sum(f.stat().st_size for f in (out_dir / "index.html", *(out_dir / "assets").iterdir()))
    except OSError as error:
        raise AccelBenchError(describe_os_error(error, "writing the report site", str(out_dir))) from error
    return SiteReport(pages=(out_dir / "index.html",), bytes=size, rows=len(rows))


def _render(
    prose: str,
    answers: Mapping[str, Sequence[Row]],
    rows: Sequence[Result],
    assets: Mapping[str, str],
    *,
    now: datetime,
    lake_url: str,
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(REPORTS_DIR / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": format.count, "moment": format.moment, "plain": format.plain}
    drawn = chart.throughput_chart(rows)
    return environment.get_template("index.html.j2").render(
        assets=assets,
        columns=COLUMNS,
        groups=header_groups(),
        quantiles=QUANTILES,
        rows=rows,
        chart=drawn,
        # Both renderers escape every text themselves: Vega's SVG writer, and markdown-it without HTML.
        chart_svg=Markup(drawn.svg) if drawn else "",  # noqa: S704
        prose=Markup(prose),  # noqa: S704
        records=records(answers["provenance"]),
        attempts=attempts(answers["unfinished"]),
        totals=_totals(answers["totals"], rows),
        built=format.moment(now),
        lake_url=lake_url,
    )


def _totals(counts: Sequence[Row], rows: Sequence[Result]) -> dict[str, Any]:
    """Counts of the header and footer: attempts by end, results by origin and by evidence level."""
    by_status = Counter[str]()
    for row in counts:
        by_status[str(row["status"])] += row["runs"]
    levels = Counter(r.evidence_level for r in rows)
    return {
        "attempts": by_status.total(),
        "succeeded": by_status["succeeded"],
        "unfinished": by_status.total() - by_status["succeeded"],
        "shown_runs": len({r.run_id for r in rows}),
        "results": len(rows),
        "models": len({r.model for r in rows}),
        "engines": len({r.engine for r in rows}),
        "cells": len({r.cell_key for r in rows}),
        "origins": sorted(Counter(r.origin for r in rows).items()),
        "levels": [(level, levels[level]) for level in EVIDENCE_LEVELS if levels[level]],
        "rankable": sum(r.origin == "measured" and r.evidence_level in EVIDENCE_LEVELS[2:] for r in rows),
    }


def _write_assets(folder: Path, *, with_chart: bool) -> dict[str, str]:
    """Write scripts and styles under names that change with their content; returns plain -> real names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {}
    for source in sorted((REPORTS_DIR / "assets").iterdir()):
        content = source.read_bytes()
        names[source.name] = f"{source.stem}.{hashlib.sha256(content).hexdigest()[:12]}{source.suffix}"
        _write_once(folder / names[source.name], source.read_bytes)
    if with_chart:
        names["vega.js"] = f"vega.{chart.bundle_version()}.js"
        _write_once(folder / names["vega.js"], lambda: chart.browser_bundle().encode())
    return names


def _write_once(path: Path, content: Callable[[], bytes]) -> None:
    """Write a file whose name stands for its content, unless it is there (files only ever appear whole)."""
    if not path.exists():
        _replace(path, content())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_old(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(out_dir: Path) -> Iterator[None]:
    """One builder at a time; the lock goes with its process."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
