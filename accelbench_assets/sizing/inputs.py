"""The hash of everything that a cell's estimate is made of, so that unchanged ones are not made again.

Belongs here: hashes of rows of the catalogs, of a profile, of this package's arithmetic. Does not belong here: the
estimate (``cells``), which hashes are already known (``grid``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from accelbench_assets.sizing.shape import shape_of
from partitions.catalog import FOLDER, load_instances, load_models


def inputs_sha256(
    cell_id: str, document: Mapping[str, Any], region: str, market: Sequence[str | None], lessons: str
) -> str:
    """SHA-256 over a cell (its id, and *document* for the parts of it), its workload, its rows of the catalogs, the
    arithmetic, *region*, what the *market* says of the instance there, and the *lessons* of measured runs.
    """
    shape = shape_of(document["workload"], prefix_caching=document["deployment"].get("prefix_caching"))
    profile = None if shape is None else shape.sha256
    rows = (_model_sha256(document["model"]), _instance_sha256(document["instance"]))
    parts = [arithmetic_sha256(), cell_id, profile, *rows, region, *market, lessons]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@cache
def arithmetic_sha256() -> str:
    """SHA-256 of the modules of this package and of the catalogs: other arithmetic, other rows of the same facts."""
    found = hashlib.sha256()
    for folder in (Path(__file__).parent, FOLDER):
        for path in sorted(folder.glob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


@cache
def _model_sha256(slug: str) -> str | None:
    row = load_models().get(slug)
    return None if row is None else hashlib.sha256(repr(row).encode()).hexdigest()


@cache
def _instance_sha256(name: str) -> str | None:
    row = load_instances().get(name)
    return None if row is None else hashlib.sha256(repr(row).encode()).hexdigest()
