"""The report site: static pages with the figures in them, readable from a disk without a network.

Belongs here: reading report pages (``reports/pages``), running their queries on the lake, turning rows into
escaped HTML and one chart, and putting the finished files in place.
Does not belong here: computing a figure (``bench``, ``sql/marts``), the lake's layout (``lake``), Dagster.

:func:`build_site` is the one entry point.
"""

from accelbench_assets.reports.site import SiteReport, build_site

__all__ = ["SiteReport", "build_site"]
