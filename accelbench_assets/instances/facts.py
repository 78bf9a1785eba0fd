"""The ``instance_types`` table from the packaged facts.

Belongs here: one row an EC2 instance type, with source, day and confidence. Does not belong here: the facts
themselves (``partitions/instances.yaml``), which name their sources; a figure without one stays null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelbench_assets.lake.tables import SCHEMAS
from partitions.catalog import instances_file, load_instances

if TYPE_CHECKING:
    import pyarrow as pa

    from partitions.catalog import InstanceRow


def _record(row: InstanceRow, as_of: str, sources: dict[str, str]) -> dict[str, Any]:
    chip = row.accelerator
    return {
        "instance_type": row.instance_type,
        "family": row.family,
        "provider": "aws",
        "accelerator_kind": chip.kind,
        "accelerator_name": chip.name,
        "accelerator_count": row.accelerator_count,
        "accelerator_memory_mib_each": chip.memory_mib,
        "accelerator_memory_mib_total": chip.memory_mib * row.accelerator_count,
        "memory_bandwidth_gb_s_each": chip.memory_bandwidth_gb_s,
        "bf16_tflops_each": chip.bf16_tflops,
        "fp8_tflops_each": chip.fp8_tflops,
        "neuron_cores": None if chip.neuron_cores is None else chip.neuron_cores * row.accelerator_count,
        "interconnect": chip.interconnect,
        "link_gb_s": chip.link_gb_s,
        "vcpu": row.vcpu,
        "memory_mib": row.memory_mib,
        "network_gbps": row.network_gbps,
        "efa_interfaces": row.efa_interfaces,
        "local_nvme_gb": row.local_nvme_gb,
        "regions": None,  # where a type is offered is only known live
        "source": "; ".join(sources[name] for name in chip.source.split("+")),
        "as_of": as_of,
        "confidence": chip.confidence,
    }


def instance_types_table() -> pa.Table:
    """One row an instance type of ``instances.yaml``, in file order, schema ``instance_types``.

    Units are in the column names; ``neuron_cores`` counts the physical cores of the whole instance; rates are
    dense peaks of one device. ``confidence`` (high, medium, low) is that of the accelerator's figures.
    """
    import pyarrow as pa

    file = instances_file()
    records = [_record(row, file.as_of, dict(file.sources)) for row in load_instances().values()]
    return pa.Table.from_pylist(records, schema=SCHEMAS["instance_types"])
