"""Resources: how assets reach settings, the lake and a launcher.

Belongs here: one resource that opens the real things from the effective settings.
Does not belong here: the settings themselves (``accelbench_assets.settings``), launchers (``launch``).
"""

import dagster as dg

from accelbench_assets.errors import LaunchError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.base import Launcher
from accelbench_assets.settings import Settings, load_settings


class AccelBench(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Settings, lake and launchers. ``lake_url`` overrides the setting (tests, a second lake in one process)."""

    lake_url: str | None = None

    def settings(self) -> Settings:
        """The effective settings, read anew for each use."""
        return load_settings(lake=self.lake_url)

    def lake(self) -> Lake:
        """The lake at its root URL."""
        return Lake.open(self.settings().lake_url)

    def launcher(self, family: str) -> Launcher:
        """The launcher for cells of *family*. Raises ``LaunchError`` for a family this version cannot launch."""
        if family == "local":
            from accelbench_assets.launch.local import LocalLauncher

            return LocalLauncher()
        if family == "endpoint":
            from accelbench_assets.launch.endpoint import EndpointLauncher

            return EndpointLauncher()
        raise LaunchError(
            f"Cells of family {family} run on AWS, and this version has no EKS launcher yet.",
            code="no_launcher",
            hint="Run a `local` or `endpoint` cell; AWS cells are planned, validated and listed only.",
        )
