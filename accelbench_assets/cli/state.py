"""What one invocation carries from its global flags to its commands.

Belongs here: quiet and debug, the settings and the lake of this invocation, messages to stderr.
Does not belong here: results (``output``), any command.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake
    from accelbench_assets.settings import Settings


@dataclass(slots=True)
class State:
    """Global flags of this invocation; ``flags`` are settings given on the command line, by setting name."""

    quiet: bool = False
    debug: bool = False
    flags: dict[str, Any] = field(default_factory=dict)
    _settings: Settings | None = None

    def set_flag(self, name: str, value: object) -> None:
        """Let a flag win over environment and file, here and in every child process."""
        self.flags[name] = value
        os.environ[f"ACCELBENCH_{name.upper()}"] = str(value)
        self._settings = None

    @property
    def settings(self) -> Settings:
        """The effective settings; raises ``UsageError`` naming a bad one."""
        if self._settings is None:
            from accelbench_assets.settings import load_settings

            self._settings = load_settings()
        return self._settings

    def lake(self) -> Lake:
        """The lake of the effective settings (not yet touched)."""
        from accelbench_assets.lake.lake import Lake

        return Lake.open(self.settings.lake_url)

    def note(self, message: str) -> None:
        """One line for the person at the terminal; silent with ``--quiet``."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """A line that ``--quiet`` does not silence."""
        print(f"warning: {message}", file=sys.stderr, flush=True)


STATE = State()


def reset() -> None:
    """Forget the previous invocation (an in-process caller may run several)."""
    STATE.quiet, STATE.debug, STATE._settings = False, False, None
    STATE.flags = {}


def set_quiet(value: bool) -> bool:
    """Callback of every ``-q/--quiet``; true anywhere means true."""
    STATE.quiet = STATE.quiet or value
    return value


def set_debug(value: bool) -> bool:
    """Callback of every ``--debug``."""
    STATE.debug = STATE.debug or value
    return value


def home() -> Path:
    """HOME of the effective settings, made with mode 0700 when it is missing."""
    from accelbench_assets.errors import LakeError, describe_os_error

    folder = STATE.settings.home
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LakeError(describe_os_error(error, "making the folder", str(folder))) from None
    return folder
