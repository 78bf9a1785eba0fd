"""What DCGM's exporter, ``nvidia-smi`` and ``neuron-monitor`` print, as readings under one set of names and units.

Belongs here: pure parsers of the three formats. Does not belong here: fetching or running them (``sources``), means and
energy (``reduce``).

``nvidia-smi`` names its columns with units (``memory.used [MiB]``); fields a device lacks read ``[N/A]`` and are left
out. DCGM's blanks (fields that were never read) are numbers near the end of their type's range and are left out too.
MIG slices have memory and utilisation of their own (device ``UUID/slice``) and share their device's power, energy and
clocks. Sources: dcgm-exporter's ``default-counters.csv``, NVML's clock event reasons, Neuron's page on
``neuron-monitor``.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from accelbench_assets.telemetry.prometheus import OWN_NAME, Reading, labels_json, samples

MIB = 2.0**20
ACCELERATOR_NAMES = (
    "util_pct",
    "memory_used_bytes",
    "power_w",
    "energy_j_total",
    "sm_clock_mhz",
    "temperature_c",
    "throttle_reasons",
    "xid_errors",
    "ecc_uncorrected_total",
    "ecc_corrected_total",
    "sm_active_ratio",
    "tensor_active_ratio",
    "dram_active_ratio",
)
"""``throttle_reasons`` is NVML's bit mask, ``xid_errors`` the last XID (0: none); ratios are 0 to 1."""

THROTTLE_BITS = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}
"""Reasons that lower a busy device's clock. Idle, application clocks, sync boost and display are settings, not
throttling."""

POWER_CAP_BIT = 0x4
"""A device at full load commonly sits at its power cap: that is shown as a reason, and is no disturbance."""

_DCGM: dict[str, tuple[str, float]] = {  # own name -> canonical name, factor
    "DCGM_FI_DEV_GPU_UTIL": ("util_pct", 1.0),
    "DCGM_FI_DEV_FB_USED": ("memory_used_bytes", MIB),
    "DCGM_FI_DEV_POWER_USAGE": ("power_w", 1.0),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_j_total", 1e-3),
    "DCGM_FI_DEV_SM_CLOCK": ("sm_clock_mhz", 1.0),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature_c", 1.0),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": ("throttle_reasons", 1.0),
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": ("throttle_reasons", 1.0),  # its name before DCGM 3.3
    "DCGM_FI_DEV_XID_ERRORS": ("xid_errors", 1.0),
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": ("ecc_uncorrected_total", 1.0),
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": ("ecc_corrected_total", 1.0),
    "DCGM_FI_PROF_SM_ACTIVE": ("sm_active_ratio", 1.0),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("tensor_active_ratio", 1.0),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("dram_active_ratio", 1.0),
}
_OF_A_SLICE = ("util_pct", "memory_used_bytes", "sm_active_ratio", "tensor_active_ratio", "dram_active_ratio")
# DCGM_INT32_BLANK, DCGM_INT64_BLANK, DCGM_FP64_BLANK and the codes that follow each (not found, not supported, …).
_BLANKS = ((0x7FFFFFF0, 0x7FFFFFFF), (2.0**63 - 1024, 2.0**63), (2.0**47, 2.0**47 + 16))

_SMI: dict[str, tuple[str, float]] = {
    "utilization.gpu": ("util_pct", 1.0),
    "memory.used": ("memory_used_bytes", MIB),
    "power.draw": ("power_w", 1.0),
    "clocks.sm": ("sm_clock_mhz", 1.0),
    "clocks.current.sm": ("sm_clock_mhz", 1.0),  # what the header calls the same
    "temperature.gpu": ("temperature_c", 1.0),
    "clocks_event_reasons.active": ("throttle_reasons", 1.0),
    "clocks_throttle_reasons.active": ("throttle_reasons", 1.0),  # its name before driver 535
    "ecc.errors.uncorrected.volatile.total": ("ecc_uncorrected_total", 1.0),
    "ecc.errors.corrected.volatile.total": ("ecc_corrected_total", 1.0),
}
SMI_FIELDS = (
    "index",
    "uuid",
    "utilization.gpu",
    "memory.used",
    "power.draw",
    "clocks.sm",
    "temperature.gpu",
    "clocks_event_reasons.active",
    "ecc.errors.uncorrected.volatile.total",
    "ecc.errors.corrected.volatile.total",
)
"""What to ask ``nvidia-smi --query-gpu`` for; drivers before 535 know the reasons as
``clocks_throttle_reasons.active``."""


def parse_dcgm(source: str, text: str, devices: Collection[str] = ()) -> list[Reading]:
    """Readings of a DCGM exporter's page, of *devices* only (indices or UUIDs) where any are named.

    A device watched for several pods is repeated; it counts once.
    """
    found: dict[tuple[str, str], Reading] = {}
    for own, rows in samples(text, frozenset(_DCGM)).items():
        name, factor = _DCGM[own]
        for pairs, value in rows.items():
            labels = dict(pairs)
            device = labels.get("UUID") or labels.get("uuid") or labels.get("gpu", "")
            if devices and device not in devices and labels.get("gpu") not in devices:
                continue
            if name in _OF_A_SLICE and labels.get("GPU_I_ID"):
                device += f"/{labels['GPU_I_ID']}"
            if not any(low <= value <= high for low, high in _BLANKS):
                told = labels_json({**labels, OWN_NAME: own, "device": device})
                found.setdefault((name, device), Reading(source, name, told, value * factor))
    return list(found.values())


def parse_nvidia_smi(source: str, text: str) -> list[Reading]:
    """Readings of ``nvidia-smi --query-gpu=… --format=csv`` (a header line, then a line a device), units or not.

    Raises ``ValueError`` when there is no header with ``index`` or ``uuid``.
    """
    rows = list(csv.reader(io.StringIO(text), skipinitialspace=True))
    header = [column.partition(" [")[0].strip() for column in rows[0]] if rows else []
    if "uuid" not in header and "index" not in header:
        raise ValueError(f"nvidia-smi printed no table: {text.strip()[:120]!r}")
    found: list[Reading] = []
    for row in rows[1:]:
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        identity: dict[str, str] = {key: cells[key] for key in ("index", "uuid") if key in cells}
        device = identity.get("uuid") or identity.get("index", "")
        for own, cell in cells.items():
            if own in _SMI and (value := _number(cell)) is not None:
                name, factor = _SMI[own]
                told = labels_json({OWN_NAME: own, "device": device, **identity})
                found.append(Reading(source, name, told, value * factor))
    return found


def parse_neuron_monitor(source: str, line: str) -> list[Reading]:
    """Readings of one report of ``neuron-monitor`` (a line of JSON).

    Utilisation is of NeuronCores (device ``nc0`` …), memory of Neuron devices (``nd0`` …; the sum over all applications
    of what its cores hold), ECC counts of Neuron devices, DRAM and SRAM together. Raises ``ValueError``.
    """
    try:
        report = json.loads(line)
    except ValueError:
        raise ValueError(f"neuron-monitor printed no JSON: {line.strip()[:120]!r}") from None
    if not isinstance(report, dict):
        raise ValueError("neuron-monitor printed JSON that is no report")
    per_device = int(_at(report, "neuron_hardware_info", "neuroncore_per_device_count") or 0) or 1
    figures: dict[tuple[str, str, str], float] = {}

    def add(name: str, own: str, device: str, value: Any) -> None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            figures[name, own, device] = figures.get((name, own, device), 0.0) + float(value)

    for runtime in report.get("neuron_runtime_data") or ():
        cores = _at(runtime, "report", "neuroncore_counters", "neuroncores_in_use") or {}
        for core, counters in cores.items():
            add("util_pct", "neuroncore_utilization", f"nc{core}", _at(counters, "neuroncore_utilization"))
        used = _at(runtime, "report", "memory_used", "neuron_runtime_used_bytes") or {}
        for core, parts in (_at(used, "usage_breakdown", "neuroncore_memory_usage") or {}).items():
            for part in parts.values():
                add("memory_used_bytes", "neuroncore_memory_usage", f"nd{int(core) // per_device}", part)
    for device in _at(report, "system_data", "neuron_hw_counters", "neuron_devices") or ():
        for kind in ("uncorrected", "corrected"):
            for part in ("mem", "sram"):
                add(
                    f"ecc_{kind}_total",
                    f"ecc_{kind}",
                    f"nd{device.get('neuron_device_index', 0)}",
                    device.get(f"{part}_ecc_{kind}"),
                )
    return [
        Reading(source, name, labels_json({OWN_NAME: own, "device": device}), value)
        for (name, own, device), value in figures.items()
    ]


def _at(document: Any, *path: str) -> Any:
    """What lies at *path*; ``None`` where any part of it is missing."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _number(cell: str) -> float | None:
    """The number a cell begins with (``45``, ``45 %``, ``0x0000000000000004``); ``None`` for ``[N/A]`` and the like."""
    text = cell.partition(" ")[0]
    try:
        value = float(int(text, 16)) if text.startswith("0x") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
