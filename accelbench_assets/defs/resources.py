"""Resources: how assets reach settings, the lake and a launcher.

Belongs here: one resource that opens the real things from the effective settings.
Does not belong here: the settings themselves (``accelbench_assets.settings``), launchers (``launch``).
"""

import contextlib
from collections.abc import Iterator

import dagster as dg

from accelbench_assets.budget.base import Budget
from accelbench_assets.errors import LaunchError, PublishError
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
        """The launcher for cells of *family*. Raises ``LaunchError`` (``no_launcher``) when it is not set up."""
        if family == "local":
            from accelbench_assets.launch.local import LocalLauncher

            return LocalLauncher()
        if family == "endpoint":
            from accelbench_assets.launch.endpoint import EndpointLauncher

            return EndpointLauncher()
        settings = self.settings()
        if settings.launcher != "eks":
            raise LaunchError(
                f"Cells of family {family} run on rented machines, and launching those is switched off.",
                code="no_launcher",
                hint='Set launcher = "eks" (ACCELBENCH_LAUNCHER=eks), with a kubeconfig for the cluster.',
            )
        if not settings.lake_url.startswith("s3://"):
            raise LaunchError(
                f"The generator writes into the lake from another machine, and {settings.lake_url} is a folder here.",
                code="no_launcher",
                hint="Set the lake to s3://bucket/prefix.",
            )
        from accelbench_assets.launch.eks import EksLauncher

        return EksLauncher(settings, settings.lake_url)

    @contextlib.contextmanager
    def budget(self, launcher: Launcher) -> Iterator[Budget | None]:
        """The ledger paid launches are reserved in; ``None`` for a launcher that costs nothing.

        Raises ``LaunchError`` (``no_ledger``) when the database cannot be had: no database, no paid launch.
        """
        if not launcher.paid:
            yield None
            return
        from accelbench_assets.budget.ledger import PostgresBudget
        from accelbench_assets.sqlkit.publish import catalog_dsn

        settings = self.settings()
        with contextlib.ExitStack() as opened:
            try:
                dsn = opened.enter_context(catalog_dsn(settings))
            except PublishError as error:
                raise LaunchError(error.message, code="no_ledger", hint=error.hint) from None
            yield PostgresBudget(dsn, settings.budget)
