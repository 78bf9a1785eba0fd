"""EC2's figures and the package's, field by field: which one stands, why, and where they contradict.

Belongs here: the rules of the merge and its provenance. Does not belong here: asking EC2 (``ec2``), the figures.

Rules. What EC2 reports stands: it is what is rented. The memory of an accelerator is the exception: where EC2's figure
is more than ``MEMORY_APART`` off a documented one of high confidence, the documented one stands until a person has
looked (EC2 has reported 512 GiB for a Trainium2 of 96 GiB). What EC2 does not report comes from the package. Every
difference is a ``Contradiction``, whichever figure stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelbench_assets.instances.describe import LiveInstance
from partitions.rows import AcceleratorRow, InstanceRow

EC2, PACKAGE, NOBODY = "ec2", "package", "nobody"
MEMORY_APART = 0.10
NETWORK_APART = 0.01
REPORTED = (
    *(
        "accelerator_kind",
        "accelerator_name",
        "accelerator_count",
        "accelerator_memory_mib_each",
        "neuron_cores",
    ),
    *("vcpu", "memory_mib", "network_gbps", "efa_interfaces", "local_nvme_gb"),
)
"""Fields that EC2 reports."""
DOCUMENTED = (
    "memory_bandwidth_gb_s_each",
    "bf16_tflops_each",
    "fp8_tflops_each",
    "interconnect",
    "link_gb_s",
)
"""Fields that only documents state."""
_OF_CHIP = ("accelerator_kind", "accelerator_name", "accelerator_memory_mib_each", "neuron_cores")
NOT_ASKED, NOT_REPORTED = "EC2 was not asked", "EC2 does not report it"
LISTING = "karpenter"  # the listing the packaged rows are from, by the name the file gives it


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the figure that stands is from (``ec2``, ``package``, ``nobody``), and why that one."""

    source: str
    why: str


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two sources say different things of one field. ``kept`` names the source whose figure stands."""

    subject: str
    field: str
    live: Any
    packaged: Any
    kept: str

    def __str__(self) -> str:
        return (
            f"{self.subject}: {self.field} is {self.live} by EC2 and {self.packaged} in the package; "
            f"{'EC2' if self.kept == EC2 else 'the package'} stands"
        )


@dataclass(frozen=True, slots=True)
class Merged:
    """One type: *values* by column of ``instance_types`` (without regions, source and day), each with its provenance.

    ``zones`` maps a region to its zones that offer the type, as the asking account names them. ``doubts`` are where
    EC2 contradicts itself; ``chip`` is the packaged accelerator, if it is in the package.
    """

    instance_type: str
    values: Mapping[str, Any]
    provenance: Mapping[str, Provenance]
    usage_classes: tuple[str, ...]
    zones: Mapping[str, tuple[str, ...]]
    contradictions: tuple[Contradiction, ...]
    doubts: tuple[str, ...]
    live: bool
    chip: AcceleratorRow | None


def merge(
    live: LiveInstance | None,
    packaged: InstanceRow | None,
    accelerators: Sequence[AcceleratorRow],
    *,
    zones: Mapping[str, tuple[str, ...]] | None = None,
    absent: str = NOT_ASKED,
) -> Merged:
    """What stands of one type; at least one of *live* and *packaged* is given. *accelerators* are the packaged ones,
    for types that the package does not list; *absent* says why *live* is none.
    """
    name = packaged.instance_type if packaged else live.instance_type if live else ""
    chip = packaged.accelerator if packaged else _same_chip(live, accelerators)
    said, stated = _reported(live), _packaged(packaged, chip)
    origin = f"{chip.source}, {chip.confidence} confidence" if chip else "the package"
    silent = absent if live is None else NOT_REPORTED
    values: dict[str, Any] = {}
    provenance: dict[str, Provenance] = {}
    found: list[Contradiction] = []
    for field in REPORTED:
        here, there = said.get(field), stated.get(field)
        if here is None:
            values[field], provenance[field] = there, _packaged_only(field, there, silent, origin)
        else:
            values[field], provenance[field] = _decide(name, field, here, there, chip, found)
    for field in DOCUMENTED:
        values[field] = stated.get(field)
        if chip is None:
            why = Provenance(NOBODY, f"{NOT_REPORTED}, and the accelerator is not in the package")
        elif values[field] is None:
            why = Provenance(NOBODY, "not published, or not verified")
        else:
            why = Provenance(PACKAGE, f"{NOT_REPORTED}; {origin}")
        provenance[field] = why
    each, count = values["accelerator_memory_mib_each"], values["accelerator_count"]
    values["accelerator_memory_mib_total"] = each * count if each is not None and count is not None else None
    return Merged(
        instance_type=name,
        values=values,
        provenance=provenance,
        usage_classes=live.usage_classes if live else (),
        zones=dict(zones or {}),
        contradictions=tuple(found),
        doubts=tuple(f"{name}: {doubt}" for doubt in live.doubts) if live else (),
        live=live is not None,
        chip=chip,
    )


def _reported(live: LiveInstance | None) -> dict[str, Any]:
    return {field: getattr(live, field) for field in REPORTED} if live is not None else {}


def _packaged(row: InstanceRow | None, chip: AcceleratorRow | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if chip is not None:
        found |= {
            "accelerator_kind": chip.kind,
            "accelerator_name": chip.name,
            "accelerator_memory_mib_each": chip.memory_mib,
            "memory_bandwidth_gb_s_each": chip.memory_bandwidth_gb_s,
            "bf16_tflops_each": chip.bf16_tflops,
            "fp8_tflops_each": chip.fp8_tflops,
            "interconnect": chip.interconnect,
            "link_gb_s": chip.link_gb_s,
        }
    if row is not None:
        cores = row.accelerator.neuron_cores
        found |= {
            "accelerator_count": row.accelerator_count,
            "neuron_cores": None if cores is None else cores * row.accelerator_count,
            "vcpu": row.vcpu,
            "memory_mib": row.memory_mib,
            "network_gbps": row.network_gbps,
            "efa_interfaces": row.efa_interfaces,
            "local_nvme_gb": row.local_nvme_gb,
        }
    return found


def _packaged_only(field: str, value: Any, silent: str, origin: str) -> Provenance:
    if value is None:
        return Provenance(NOBODY, f"{silent}, and the package does not state it")
    return Provenance(PACKAGE, f"{silent}; {origin if field in _OF_CHIP else LISTING}")


def _decide(
    name: str, field: str, live: Any, packaged: Any, chip: AcceleratorRow | None, found: list[Contradiction]
) -> tuple[Any, Provenance]:
    if packaged is None:
        return live, Provenance(EC2, "the package does not state it")
    if _agree(field, live, packaged):
        return live, Provenance(EC2, "reported by EC2, as in the package")
    if field == "accelerator_memory_mib_each" and chip is not None and chip.confidence == "high":
        apart = abs(live - packaged) / packaged
        if apart > MEMORY_APART:
            found.append(Contradiction(name, field, live, packaged, PACKAGE))
            return packaged, Provenance(
                PACKAGE, f"EC2 reports {live}, {apart:.0%} off the documented figure of high confidence"
            )
    found.append(Contradiction(name, field, live, packaged, EC2))
    return live, Provenance(EC2, f"reported by EC2; the package has {packaged}")


def _agree(field: str, live: Any, packaged: Any) -> bool:
    if field == "network_gbps":
        return bool(abs(live - packaged) <= NETWORK_APART * max(live, packaged))
    return bool(live == packaged)


def _same_chip(live: LiveInstance | None, accelerators: Iterable[AcceleratorRow]) -> AcceleratorRow | None:
    """The packaged accelerator of a type that the package does not list: the only one of its name, or the one whose
    memory fits. A share of a device is none of them.
    """
    if live is None or not live.whole or live.accelerator_name is None:
        return None
    named = [
        one for one in accelerators if (one.kind, one.name) == (live.accelerator_kind, live.accelerator_name)
    ]
    if len(named) == 1:
        return named[0]
    each = live.accelerator_memory_mib_each or 0
    near = [one for one in named if abs(each - one.memory_mib) <= MEMORY_APART * one.memory_mib]
    return near[0] if len(near) == 1 else None
