"""The ``instance_types`` table: packaged facts, merged with EC2's where it was asked.

Belongs here: one row an EC2 instance type, with source, day and confidence; the round over regions. Does not belong
here: the packaged facts themselves (``partitions/instances.yaml``), the rules of the merge (``merge``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from accelbench_assets.instances.age import Age, age_of
from accelbench_assets.instances.describe import LiveInstance
from accelbench_assets.instances.ec2 import Ec2Error, RegionAnswer, ask_region
from accelbench_assets.instances.merge import EC2, Contradiction, Merged, merge
from accelbench_assets.lake.tables import SCHEMAS
from partitions.catalog import instance_families, instances_file, load_instances

if TYPE_CHECKING:
    import pyarrow as pa

    from partitions.catalog import AcceleratorRow

NOT_FOUND = "in none of the regions asked"


def packaged_age(today: date | None = None) -> Age:
    """The age of ``instances.yaml``."""
    return age_of(instances_file().as_of, today)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A round over regions. ``failed`` maps a region to why it gave nothing; ``asked`` are those that answered."""

    types: Mapping[str, Merged]
    asked: tuple[str, ...]
    failed: Mapping[str, str]
    at: datetime

    @property
    def contradictions(self) -> tuple[Contradiction, ...]:
        """Of all types, in their order."""
        return tuple(one for merged in self.types.values() for one in merged.contradictions)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Where EC2 contradicts itself."""
        return tuple(one for merged in self.types.values() for one in merged.doubts)


def refresh(
    regions: Sequence[str],
    *,
    endpoint_url: str | None = None,
    ask: Callable[..., RegionAnswer] = ask_region,
) -> Refreshed:
    """Ask EC2 in each of *regions* and merge with the package. A region that fails is named and left out.

    Raises ``Ec2Error`` when no region answers; after an error that is not of one region the rest is not asked.
    """
    answers: list[RegionAnswer] = []
    failed: dict[str, str] = {}
    last: Ec2Error | None = None
    for region in dict.fromkeys(regions):
        if last is not None and last.code != "region":
            failed[region] = f"not asked, for: {last.message}"
            continue
        try:
            answers.append(ask(region, instance_families(), endpoint_url=endpoint_url))
        except Ec2Error as error:
            failed[region], last = str(error), error
    if not answers:
        raise last or Ec2Error(
            "No region was named.", code="region", hint="Name at least one, such as us-east-1."
        )
    at = datetime.now(UTC)
    return Refreshed(_merged(answers), tuple(one.region for one in answers), failed, at)


def _merged(answers: Sequence[RegionAnswer]) -> dict[str, Merged]:
    packaged = load_instances()
    live: dict[str, tuple[str, LiveInstance]] = {}
    differs: dict[str, list[str]] = {}
    zones: dict[str, dict[str, tuple[str, ...]]] = {}
    for answer in answers:
        for one in answer.types:
            region, first = live.setdefault(one.instance_type, (answer.region, one))
            if first != one:
                said = f"{one.instance_type}: {region} and {answer.region} describe it differently; {region} stands"
                differs.setdefault(one.instance_type, []).append(said)
        for name, found in answer.zones.items():
            zones.setdefault(name, {})[answer.region] = found
    chips = accelerators()
    merged = {}
    for name in (*packaged, *sorted(set(live) - set(packaged))):
        here = live[name][1] if name in live else None
        both = merge(here, packaged.get(name), chips, zones=zones.get(name), absent=f"EC2 has it {NOT_FOUND}")
        merged[name] = replace(both, doubts=(*both.doubts, *differs.get(name, ())))
    return merged


def accelerators() -> tuple[AcceleratorRow, ...]:
    """The packaged accelerators that an instance has, each once."""
    return tuple({row.accelerator.id: row.accelerator for row in load_instances().values()}.values())


def packaged_types() -> dict[str, Merged]:
    """The packaged types alone, in the form of the merge."""
    chips = accelerators()
    return {name: merge(None, row, chips) for name, row in load_instances().items()}


def family(name: str) -> str:
    """The family of a type as the catalog has it: ``p6`` of p6-b200.48xlarge."""
    packaged = load_instances().get(name)
    if packaged is not None:
        return packaged.family
    prefix = name.split(".")[0]
    return next((one for one in instance_families() if prefix == one or prefix.startswith(f"{one}-")), prefix)


def record(merged: Merged, refreshed: Refreshed | None = None) -> dict[str, Any]:
    """A row of the table. ``regions`` and ``zones`` (names as the asking account has them, of all regions asked) are
    sorted, and null where nobody asked; ``confidence`` is that of the accelerator's figures, high where they are all
    EC2's.
    """
    values = {name: merged.values.get(name) for name in SCHEMAS["instance_types"].names}
    return {
        **values,
        "instance_type": merged.instance_type,
        "family": family(merged.instance_type),
        "provider": "aws",
        "regions": sorted(merged.zones) if refreshed is not None else None,
        "zones": sorted({zone for found in merged.zones.values() for zone in found})
        if refreshed is not None
        else None,
        "source": _source(merged, refreshed),
        "as_of": refreshed.at.date().isoformat() if refreshed and merged.live else instances_file().as_of,
        "asked_at": refreshed.at if refreshed is not None else None,
        "confidence": merged.chip.confidence if merged.chip else "high",
    }


def _source(merged: Merged, refreshed: Refreshed | None) -> str:
    sources = instances_file().sources
    parts = []
    if merged.live:
        of = ", ".join(sorted(name for name, p in merged.provenance.items() if p.source == EC2))
        parts.append(f"EC2 DescribeInstanceTypes: {of}")
    elif refreshed is not None:
        parts.append(f"EC2 has it {NOT_FOUND}")
    if merged.chip is not None:
        parts += [sources[name] for name in merged.chip.source.split("+")]
    return "; ".join(parts)


def instance_types_table(refreshed: Refreshed | None = None) -> pa.Table:
    """One row an instance type, schema ``instance_types``: those of ``instances.yaml`` in file order, then those that
    only EC2 listed.

    Units are in the column names; ``neuron_cores`` counts the physical cores of the whole instance; rates are
    dense peaks of one device. ``confidence`` (high, medium, low) is that of the accelerator's figures.
    """
    import pyarrow as pa

    types = packaged_types() if refreshed is None else refreshed.types
    rows = [record(merged, refreshed) for merged in types.values()]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["instance_types"])
