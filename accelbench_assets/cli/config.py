"""``accelbench config``: the effective settings and where each comes from.

Belongs here: the source of a setting's value, secrets masked.
Does not belong here: the settings (``accelbench_assets.settings``).
"""

from __future__ import annotations

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
    environment = {name.upper() for name in os.environ}
    rows = []
    for name, value in STATE.settings.shown().items():
        variable = f"ACCELBENCH_{name.upper()}"
        if name in STATE.flags:
            source = f"flag --{name.replace('_', '-')}"
        elif variable in environment:
            source = f"environment {variable}"
        elif name in in_file:
            source = "accelbench.toml"
        else:
            source = "default"
        rows.append({"setting": name, "value": value, "source": source})
    columns = [Column("setting", "setting"), Column("value", "value", wrap=True), Column("source", "from")]
    emit(rows, columns, format_)


def _names_in_file(path: Path) -> set[str]:
    import tomllib

    if not path.is_file():
        return set()
    return set(tomllib.loads(path.read_text(encoding="utf-8")))  # settings have validated it already
