"""Lambda: packaged prices of its on-demand cloud.

Belongs here: what is particular to Lambda. Does not belong here: the form of catalogs (``catalog``).

Lambda names machines ``gpu_<count>x_<accelerator>`` and has one price for all its regions; the catalog has it under the
region its source used. Clusters by the week and reserved terms are not in the catalog.
"""

from __future__ import annotations

from accelbench_assets.pricing.catalog import catalog
from accelbench_assets.pricing.points import Point

NAME = "lambda"


def packaged() -> tuple[Point, ...]:
    """The catalog's points; on-demand, dated by their own sources."""
    return catalog(NAME)
