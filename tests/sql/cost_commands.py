"""The commands that show costs, called in this process as at a terminal of a given width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.testing import CliRunner, Result

from accelbench_assets.cli import state

Call = Callable[..., Result]


def caller(*commands: Callable[..., Any]) -> Call:
    """One app of *commands*; with a single one its words are given without its name."""
    app = typer.Typer()
    for one in commands:
        app.command()(one)

    def call(*words: str, columns: int = 200) -> Result:
        state.reset()
        return CliRunner().invoke(app, list(words), env={"COLUMNS": str(columns), "NO_COLOR": "1"})

    return call


def succeeded(result: Result) -> Result:
    """*result*, which must be no error."""
    assert result.exit_code == 0, (result.output, result.exception)
    return result
