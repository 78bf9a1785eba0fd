"""RunPod: packaged prices of its pods by the hour.

Belongs here: what is particular to RunPod. Does not belong here: the form of catalogs (``catalog``).

RunPod sells accelerators by the pod: an instance type is ``<count>x_<accelerator>``, with SECURE for its own data
centres. Its prices differ by place only where the row names one. There is no reserved tier in the catalog.
"""

from __future__ import annotations

from accelbench_assets.pricing.catalog import catalog
from accelbench_assets.pricing.points import Point

NAME = "runpod"


def packaged() -> tuple[Point, ...]:
    """The catalog's points; on-demand, dated by their own sources."""
    return catalog(NAME)
