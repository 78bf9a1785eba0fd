"""The Dagster instance of this installation: its folder and its ``dagster.yaml``.

Belongs here: preparing the folder, without importing Dagster (the command line calls this too).
Does not belong here: assets and runs (``defs``).
"""

from __future__ import annotations

import os
from pathlib import Path

from accelbench_assets.errors import LakeError, describe_os_error
from accelbench_assets.paths import INFRA_DIR
from accelbench_assets.settings import Settings


def prepare_dagster_home(settings: Settings) -> Path:
    """Create DAGSTER_HOME with the packaged local configuration and return it; a changed ``dagster.yaml`` is kept."""
    home = settings.dagster_home
    try:
        home.mkdir(parents=True, exist_ok=True)
        config = home / "dagster.yaml"
        if not config.exists():
            partial = home / f".dagster.yaml.{os.getpid()}"
            partial.write_bytes((INFRA_DIR / "dagster" / "dagster.local.yaml").read_bytes())
            partial.replace(config)
    except OSError as error:
        raise LakeError(describe_os_error(error, "writing the Dagster instance", str(home))) from None
    return home
