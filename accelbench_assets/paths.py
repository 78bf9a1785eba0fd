"""Where the project's own non-Python files lie: SQL, report pages and templates, Dagster configuration.

Belongs here: locating packaged files, in a checkout and in an installed wheel.
Does not belong here: where results go (``settings`` and ``lake``).
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent


def _data_dir(name: str) -> Path:
    inside_wheel = _PACKAGE / "_data" / name
    return inside_wheel if inside_wheel.is_dir() else _CHECKOUT / name


SQL_DIR = _data_dir("sql")
REPORTS_DIR = _data_dir("reports")
INFRA_DIR = _data_dir("infra")
