"""One entry of EC2's DescribeInstanceTypes as facts.

Belongs here: the API's fields with their units, and where an entry contradicts itself. Does not belong here: asking
(``ec2``), what the API does not say (``partitions``), which of two figures is right (``merge``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TIMES = re.compile(r"(\d+)x (\d+(?:\.\d+)?) Gigabit")
_EXACT = re.compile(r"(\d+(?:\.\d+)?) Gigabit")
_MOST = 10**15


@dataclass(frozen=True, slots=True)
class LiveInstance:
    """What EC2 reports of one type. Memory in MiB, network in Gbit/s sustained, disk in GB; null = not reported.

    ``whole`` is false for a share of a device (``g6f``); ``doubts`` are where the entry contradicts itself.
    """

    instance_type: str
    accelerator_kind: str | None
    accelerator_name: str | None
    accelerator_count: int | None
    accelerator_memory_mib_each: int | None
    neuron_cores: int | None
    vcpu: int | None
    memory_mib: int | None
    network_gbps: float | None
    efa_interfaces: int
    local_nvme_gb: int
    usage_classes: tuple[str, ...]
    whole: bool = True
    doubts: tuple[str, ...] = ()


def read_entry(entry: Mapping[str, Any]) -> LiveInstance | None:
    """The facts of *entry*; ``None`` where it names no type. Fields of another kind than documented are left out."""
    name = entry.get("InstanceType")
    if not isinstance(name, str) or not name:
        return None
    doubts: list[str] = []
    kind, chip, count, each, cores, whole = _accelerators(entry, doubts)
    return LiveInstance(
        instance_type=name,
        accelerator_kind=kind,
        accelerator_name=chip,
        accelerator_count=count,
        accelerator_memory_mib_each=each,
        neuron_cores=cores,
        vcpu=_count(_inner(entry, "VCpuInfo"), "DefaultVCpus"),
        memory_mib=_count(_inner(entry, "MemoryInfo"), "SizeInMiB"),
        network_gbps=_network(_inner(entry, "NetworkInfo"), doubts),
        efa_interfaces=_count(_inner(entry, "NetworkInfo", "EfaInfo"), "MaximumEfaInterfaces") or 0,
        local_nvme_gb=_count(_inner(entry, "InstanceStorageInfo"), "TotalSizeInGB") or 0,
        usage_classes=tuple(
            sorted(one for one in _list(entry, "SupportedUsageClasses") if isinstance(one, str))
        ),
        whole=whole,
        doubts=tuple(doubts),
    )


def _inner(entry: Any, *path: str) -> Mapping[str, Any]:
    for name in path:
        entry = entry.get(name) if isinstance(entry, Mapping) else None
    return entry if isinstance(entry, Mapping) else {}


def _list(entry: Mapping[str, Any], name: str) -> list[Any]:
    value = entry.get(name)
    return value if isinstance(value, list) else []


def _count(entry: Mapping[str, Any], name: str) -> int | None:
    value = entry.get(name)
    return value if type(value) is int and 0 < value <= _MOST else None


def _number(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value <= _MOST else None


def _slug(name: object) -> str | None:
    """A name as the catalog spells it: lower case, words joined by '-'."""
    return "-".join(name.lower().split()) if isinstance(name, str) and name.strip() else None


def _accelerators(
    entry: Mapping[str, Any], doubts: list[str]
) -> tuple[str | None, str | None, int | None, int | None, int | None, bool]:
    """(kind, name, count, MiB each, NeuronCores of all, whole devices) of the first kind of accelerator listed."""
    for kind, info, devices, total_name in (
        ("gpu", "GpuInfo", "Gpus", "TotalGpuMemoryInMiB"),
        ("neuron", "NeuronInfo", "NeuronDevices", "TotalNeuronDeviceMemoryInMiB"),
        ("neuron", "InferenceAcceleratorInfo", "Accelerators", "TotalInferenceMemoryInMiB"),
    ):
        found = _inner(entry, info)
        listed = [one for one in _list(found, devices) if isinstance(one, Mapping)]
        if not listed:
            continue
        device = listed[0]
        count = _count(device, "Count")
        partition = _number(device, "GpuPartitionSize")
        if count is None:  # a share of a device counts none
            count = _count(device, "LogicalGpuCount")
        if len(listed) > 1:
            doubts.append(f"{info} lists {len(listed)} kinds of devices, of which the first is taken")
        each = _count(_inner(device, "MemoryInfo"), "SizeInMiB")
        total = _count(found, total_name)
        if count and each and total and count * each != total:
            doubts.append(f"{count} x {each} MiB of accelerator memory is not the total of {total} MiB")
        per_device = _count(_inner(device, "CoreInfo"), "Count")
        cores = per_device * count if per_device and count else None
        name = _slug(device.get("Name"))
        return kind, name, count, each, cores, partition is None or partition >= 1
    return None, None, None, None, None, True


def _network(info: Mapping[str, Any], doubts: list[str]) -> float | None:
    """Sustained Gbit/s: the stated figure, or for "Up to" the baseline of the network cards."""
    cards = [
        _number(one, "BaselineBandwidthInGbps")
        for one in _list(info, "NetworkCards")
        if isinstance(one, Mapping)
    ]
    baseline = sum(one for one in cards if one is not None) or None
    text = info.get("NetworkPerformance")
    stated: float | None = None
    if isinstance(text, str):
        if match := _TIMES.fullmatch(text.strip()):
            stated = int(match[1]) * float(match[2])
        elif match := _EXACT.fullmatch(text.strip()):
            stated = float(match[1])
    if stated is not None and baseline is not None and abs(stated - baseline) > 0.01 * stated:
        doubts.append(f"the network cards add up to {baseline:g} Gbit/s and the type is said to have {text}")
    return stated if stated is not None else baseline
