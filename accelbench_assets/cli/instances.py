"""``accelbench instances list | show``: what instance types are, from the package or merged with EC2.

Belongs here: choosing types, printing facts with their age, sources and contradictions. Does not belong here: the facts
and the merge (``instances``), prices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    QuietOption,
    chosen,
    near,
    split_list,
)
from accelbench_assets.cli.output import Column, console, emit, number, write_json
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from accelbench_assets.instances.facts import Refreshed
    from accelbench_assets.instances.merge import Merged

app = typer.Typer(help="What instance types are: list, show.", no_args_is_help=True, rich_markup_mode=None)

COLUMNS = (
    Column("instance_type", "instance type"),
    Column("accelerators", "accelerators"),
    Column("gib_each", "GiB each", "rate", keep=3),
    Column("gib_total", "GiB", "rate"),
    Column("neuron_cores", "cores", "int", keep=8),
    Column("vcpu", "vCPU", "int", keep=4),
    Column("memory_gib", "host GiB", "int", keep=5),
    Column("network_gbps", "Gbit/s", "rate", keep=6),
    Column("memory_bandwidth_gb_s_each", "GB/s each", "rate", keep=7),
    Column("bf16_tflops_each", "bf16 TF each", "rate", keep=9),
    Column("confidence", "confidence", keep=10),
    Column("offered", "offered in", keep=2, wrap=True),
)
FIELDS = (
    *("instance_type", "family", "provider", "accelerator_kind", "accelerator_name", "accelerator_count"),
    *("accelerator_memory_mib_each", "accelerator_memory_mib_total", "memory_bandwidth_gb_s_each"),
    *("bf16_tflops_each", "fp8_tflops_each", "neuron_cores", "interconnect", "link_gb_s", "vcpu"),
    *("memory_mib", "network_gbps", "efa_interfaces", "local_nvme_gb", "regions", "zones"),
    *("usage_classes", "confidence", "as_of", "age_days", "source"),
)
RefreshOption = Annotated[
    bool, typer.Option("--refresh", help="Ask EC2 and merge; needs AWS credentials, costs nothing.")
]
RegionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--regions", help="With --refresh: regions, separated by commas. Default: the setting region."
    ),
]


@app.command("list")
def list_instances(
    family: Annotated[str | None, typer.Option("--family", help="Only this family.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only gpu or neuron.")] = None,
    refresh: RefreshOption = False,
    regions: RegionsOption = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List instance types. Needs no network, unless --refresh is given."""
    from partitions.catalog import instance_families

    format_ = chosen(fmt, as_json)
    if family is not None and family not in instance_families():
        raise UsageError(f"--family: {family!r} is no family here. {near(family, instance_families())}")
    if kind not in (None, "gpu", "neuron"):
        raise UsageError(f"--kind: {kind!r} is neither gpu nor neuron.")
    types, refreshed = _types(refresh, regions)
    rows = [
        row
        for row in (_row(merged, refreshed) for merged in types.values())
        if family in (None, row["family"]) and kind in (None, row["accelerator_kind"])
    ]
    emit(
        [_presented(row) for row in rows], COLUMNS, format_, fields=FIELDS, empty="No instance type matches."
    )
    if format_ is Format.table and rows:
        STATE.note(f"{len(rows)} instance types. {_age(refreshed)}.")
    _tell(refreshed, {row["instance_type"] for row in rows})


@app.command("show")
def show_instance(
    instance_type: Annotated[
        str, typer.Argument(metavar="TYPE", help="An instance type, such as g6e.xlarge.")
    ],
    refresh: RefreshOption = False,
    regions: RegionsOption = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Show every figure of an instance type with its source and how sure it is."""
    format_ = chosen(fmt, as_json)
    types, refreshed = _types(refresh, regions)
    merged = types.get(instance_type.strip().lower())
    if merged is None:
        raise UsageError(
            f"{instance_type!r} is no instance type known here. {near(instance_type, list(types))}",
            hint=None if refreshed else "--refresh asks EC2 for newer types of the families here.",
        )
    row = _row(merged, refreshed)
    if format_ is Format.json:
        fields = {
            name: {"value": merged.values[name], "source": p.source, "why": p.why}
            for name, p in merged.provenance.items()
        }
        said = [str(one) for one in merged.contradictions]
        write_json(
            {
                **{name: row[name] for name in FIELDS},
                "fields": fields,
                "contradictions": said,
                "doubts": list(merged.doubts),
            }
        )
    elif format_ is Format.csv:
        emit([row], COLUMNS, format_, fields=FIELDS)
    else:
        _print(merged, row)
        for doubt in merged.doubts:
            STATE.note(f"EC2 contradicts itself: {doubt}.")
        STATE.note(f"{_age(refreshed)}.")
    _tell(refreshed, {merged.instance_type})


def _types(wanted: bool, regions: list[str] | None) -> tuple[dict[str, Merged], Refreshed | None]:
    from accelbench_assets.instances.facts import packaged_types
    from accelbench_assets.instances.facts import refresh as ask

    if not wanted:
        if regions:
            raise UsageError("--regions is of EC2: give --refresh as well.")
        return packaged_types(), None
    named = split_list("--regions", regions) or [STATE.settings.region]
    refreshed = ask(named)
    return dict(refreshed.types), refreshed


def _age(refreshed: Refreshed | None) -> str:
    from accelbench_assets.instances.facts import packaged_age

    if refreshed is None:
        return f"Packaged {packaged_age()}; --refresh asks EC2"
    return f"EC2 of now in {', '.join(refreshed.asked)}, merged with packaged {packaged_age()}"


def _tell(refreshed: Refreshed | None, shown: set[str]) -> None:
    """What did not answer and what contradicts, on stderr whatever the format."""
    if refreshed is None:
        return
    for region, reason in refreshed.failed.items():
        STATE.warn(f"{region} gave nothing: {reason}")
    for one in refreshed.contradictions:
        if one.subject in shown:
            STATE.warn(str(one))


def _row(merged: Merged, refreshed: Refreshed | None) -> dict[str, Any]:
    from accelbench_assets.instances.age import age_of
    from accelbench_assets.instances.facts import record

    found = record(merged, refreshed)
    return {
        **found,
        "zones": {region: list(zones) for region, zones in sorted(merged.zones.items())}
        if refreshed
        else None,
        "usage_classes": list(merged.usage_classes) or None,
        "age_days": age_of(found["as_of"]).days,
    }


def _presented(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the cells that a table shows in other units."""
    gib = 1024
    each, total = row["accelerator_memory_mib_each"], row["accelerator_memory_mib_total"]
    return {
        **row,
        "accelerators": f"{row['accelerator_count'] or '?'} x {row['accelerator_name'] or '?'}",
        "gib_each": None if each is None else each / gib,
        "gib_total": None if total is None else total / gib,
        "memory_gib": None if row["memory_mib"] is None else row["memory_mib"] // gib,
        "offered": "not asked" if row["regions"] is None else ", ".join(row["regions"]) or "nowhere asked",
    }


_SHOWN = (
    ("accelerator_kind", "kind", ""),
    ("accelerator_name", "accelerator", ""),
    ("accelerator_count", "accelerators", ""),
    ("accelerator_memory_mib_each", "memory of each", "MiB"),
    ("neuron_cores", "NeuronCores", "physical, of all"),
    ("memory_bandwidth_gb_s_each", "bandwidth of each", "GB/s"),
    ("bf16_tflops_each", "bf16 of each", "TFLOPS, dense"),
    ("fp8_tflops_each", "fp8 of each", "TFLOPS, dense"),
    ("interconnect", "interconnect", ""),
    ("link_gb_s", "link of each", "GB/s, one direction"),
    ("vcpu", "vCPU", ""),
    ("memory_mib", "host memory", "MiB"),
    ("network_gbps", "network", "Gbit/s, sustained"),
    ("efa_interfaces", "EFA interfaces", ""),
    ("local_nvme_gb", "local NVMe", "GB"),
)


def _print(merged: Merged, row: dict[str, Any]) -> None:
    """One figure a line, with where it is from."""
    out = console()
    total = row["accelerator_memory_mib_total"]
    memory = "" if total is None else f", {number(total / 1024, 5)} GiB of accelerator memory"
    out.print(f"{merged.instance_type} (family {row['family']}){memory}", soft_wrap=True)
    for name, title, unit in _SHOWN:
        if name == "neuron_cores" and row["accelerator_kind"] == "gpu":
            continue
        value, source = merged.values.get(name), merged.provenance[name]
        said = (
            "not known" if value is None else f"{value:,}" if isinstance(value, (int, float)) else str(value)
        )
        figure = f"{said} {unit}".strip() if value is not None else said
        out.print(f"{title + ':':20}{figure:34} {source.source}: {source.why}", soft_wrap=True)
    out.print(f"{'offered in:':20}{_offered(row)}", soft_wrap=True)
    if row["usage_classes"]:
        out.print(f"{'sold as:':20}{', '.join(row['usage_classes'])}", soft_wrap=True)
    out.print(f"{'confidence:':20}{row['confidence']}, of the accelerator's figures", soft_wrap=True)
    out.print(f"{'source:':20}{row['source']}", soft_wrap=True)


def _offered(row: dict[str, Any]) -> str:
    if row["zones"] is None:
        return "not asked (--refresh)"
    zones = "; ".join(f"{region}: {', '.join(names)}" for region, names in row["zones"].items())
    return zones or "none of the regions asked"
