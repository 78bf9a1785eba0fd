"""Prometheus exposition text to readings of the metrics we know.

Belongs here: picking known lines out of a page, and giving engines' metrics their canonical names. Does not belong
here: what the names are (``names``, ``accelerators``), when pages are read (``sampler``).

Pages are filtered by line before ``prometheus_client`` parses them: an engine's page is mostly histogram buckets, and
reading it must cost the machine under test next to nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from accelbench_assets.telemetry.names import chosen, engine_of, own_names

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
OWN_NAME = "__name__"
"""The label that keeps a metric's own name, as Prometheus itself calls it."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure of one moment: who said it, its canonical name, its labels as sorted JSON, its value."""

    source: str
    name: str
    labels: str
    value: float


def labels_json(labels: Mapping[str, str]) -> str:
    """*labels* as the text that ``labels`` columns hold: sorted, so that equal labels are equal texts."""
    return json.dumps(dict(labels), sort_keys=True)


def samples(text: str, names: Iterable[str]) -> dict[str, dict[Labels, float]]:
    """Values of the metrics called *names* by labels; NaN and infinities are left out.

    Raises ``ValueError`` where a line of a wanted metric does not parse.
    """
    from prometheus_client.parser import text_string_to_metric_families

    wanted = names if isinstance(names, frozenset) else frozenset(names)
    lines = [
        line
        for line in text.splitlines()
        if not line.startswith("#") and (found := _NAME.match(line)) and found[0] in wanted
    ]
    values: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if math.isfinite(sample.value):
                key = tuple(sorted(sample.labels.items()))
                values.setdefault(sample.name, {})[key] = float(sample.value)
    return values


def engine_readings(source: str, text: str) -> list[Reading]:
    """Canonical readings of one replica's page; none for a page of no known engine. Raises ``ValueError``."""
    values = samples(text, own_names())
    engine = engine_of(values)
    if engine is None:
        return []
    found: list[Reading] = []
    for canonical, parts in chosen(engine, values).items():
        for labels, first in values[parts[0]].items():
            value = first + sum(values[part].get(labels, 0.0) for part in parts[1:])
            told = labels_json({OWN_NAME: "+".join(parts), **dict(labels)})
            found.append(Reading(source, canonical, told, value))
    return found
