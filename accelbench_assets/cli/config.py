"""``accelbench config``: the effective settings and where each comes from.

Belongs here: the source of a setting's value, secrets masked.
Does not belong here: the settings (``accelbench_assets.settings``).
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from accelbench_assets.cli.options import DebugOption, Format, FormatOption, JsonOption, QuietOption, chosen
from accelbench_assets.cli.output import Column, emit
from accelbench_assets.cli.state import STATE


def config(
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the effective settings and their source: flag, environment, accelbench.toml or default."""
    format_ = chosen(fmt, as_json)
    in_file = _names_in_file(Path("accelbench.toml"))
    rows = []
    for name, value in STATE.settings.shown().items():
        variable = _variable(name)
        if name in STATE.flags:
            source = f"flag --{name.replace('_', '-')}"
        elif variable is not None:
            # A variable's name says that it is one, and a narrow table has no room for more.
            source = variable if format_ is Format.table else f"environment {variable}"
        elif name in in_file:
            source = "accelbench.toml"
        else:
            source = "default"
        rows.append({"setting": name, "value": value, "source": source})
    columns = [Column("setting", "setting"), Column("value", "value", wrap=True), Column("source", "from")]
    emit(rows, columns, format_)


def _variable(name: str) -> str | None:
    """The environment variable that sets *name* (``region``, ``kube.namespace``): its own, one of its entries, or
    its group's JSON.
    """
    environment = {one.upper(): value for one, value in os.environ.items()}
    group, _, field = name.upper().partition(".")
    whole = f"ACCELBENCH_{group}"
    own = f"{whole}__{field}" if field else whole
    if own in environment:
        return own
    if not field:
        return None
    if (entry := next((one for one in sorted(environment) if one.startswith(f"{own}__")), None)) is not None:
        return entry
    with contextlib.suppress(ValueError):
        document = json.loads(environment.get(whole, "null"))
        if isinstance(document, dict) and field in {str(key).upper() for key in document}:
            return whole
    return None


def _names_in_file(path: Path) -> set[str]:
    import tomllib

    if not path.is_file():
        return set()
    document = tomllib.loads(path.read_text(encoding="utf-8"))  # settings have validated it already
    names = set(document)
    for group, values in document.items():
        if isinstance(values, dict):
            names |= {f"{group}.{name}" for name in values}
    return names
