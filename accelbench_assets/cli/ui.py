"""``accelbench ui``: the Dagster UI on the same lake and instance.

Belongs here: preparing its folder and handing this process over to it.
Does not belong here: assets (``defs``), the instance's configuration (``infra/dagster``).
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from typing import Annotated

import typer

from accelbench_assets.cli.options import DebugOption, QuietOption
from accelbench_assets.cli.state import STATE, home
from accelbench_assets.errors import AccelBenchError, UsageError

DEFAULT_PORT = 3000


def ui(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on 127.0.0.1.")] = DEFAULT_PORT,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Open the Dagster UI: assets, partitions, runs and their pictures. Ctrl-C ends it."""
    if importlib.util.find_spec("dagster_webserver") is None:
        raise AccelBenchError(
            "The UI is missing: package dagster-webserver is not installed.",
            hint="Run `make install`, or pip install 'accelbench[local]'.",
        )
    if not port_free(port):
        raise UsageError(f"--port: {port} on 127.0.0.1 is in use.", hint="Name another with --port.")
    from accelbench_assets.dagster_home import prepare_dagster_home

    home()
    os.environ["DAGSTER_HOME"] = str(prepare_dagster_home(STATE.settings))
    os.environ.setdefault("ACCELBENCH_HOME", str(STATE.settings.home))
    if STATE.settings.pools.limits:
        apply_pools()
    STATE.note(f"Dagster UI: http://127.0.0.1:{port}  (lake {STATE.settings.lake_url}; Ctrl-C ends it)")
    sys.stdout.flush()
    command = [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        "-m",
        "accelbench_assets.definitions",
        "-h",
        "127.0.0.1",
    ]
    os.execv(sys.executable, [*command, "-p", str(port)])  # noqa: S606 - our own interpreter


def apply_pools() -> None:
    """Tell the instance how many runs of a family may be under way at once, before its daemon starts any."""
    from accelbench_assets.cli.child import run_child
    from accelbench_assets.cli.progress import ProgressView

    command = ["-m", "accelbench_assets.defs.tasks", "pools"]
    end = run_child(command, view=ProgressView(()), log=home() / "logs" / "pools.log")
    if error := end.failure("Setting the pools"):
        raise error


def port_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
