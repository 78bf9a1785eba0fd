"""``accelbench run --dry-run``: the cell and the plan, without starting or writing anything.

Belongs here: the plan as a document and as text; of a rented machine, ``dryrun_eks`` adds what would be created.
Does not belong here: the checks that come before it (``target``), running anything (``launching``).
"""

from __future__ import annotations

from typing import Any

from accelbench_assets.cli.options import Format
from accelbench_assets.cli.state import STATE
from accelbench_assets.cli.target import Target
from accelbench_assets.cli.target_load import planned_seconds


def plan_document(target: Target) -> dict[str, Any]:
    """The JSON document of ``run --dry-run``."""
    cell, workload = target.cell, target.workload
    return {
        "cell_key": cell.key_text,
        "cell_id": cell.cell_id,
        "cell": cell.to_dict(),
        "workload_id": workload.id,
        "workload_hash": workload.hash,
        "evidence_level": workload.evidence_level,
        "ladder": [{"load_kind": k, "load_value": v, "arrival": a} for k, v, a in workload.ladder],
        "warmup_s": workload.warmup_s,
        "window_s": workload.window_s,
        "tail_s": workload.tail_s,
        "planned_s": planned_seconds(workload, search=target.request["load"]["search_slo"] is not None),
        "deadline_s": target.request["deadline_s"],
        "request": target.request,
    }


def show_plan(target: Target, fmt: Format) -> None:
    """What a run would do; nothing is started or written."""
    from accelbench_assets.cli.output import Column, console, emit, write_json
    from partitions.cell import OWN_FAMILIES

    document = plan_document(target)
    for note in target.notes:
        STATE.note(note)
    rented = target.cell.family not in OWN_FAMILIES
    if rented:
        from accelbench_assets.cli.dryrun_eks import described_estimate, manifests, write_yaml

        document |= {"manifests": manifests(target), "estimate": described_estimate(target)}
    rows = plan_rows(target, document)
    if fmt is Format.json:
        write_json(document)
    elif fmt is Format.csv:
        emit(rows, [Column("what", "what"), Column("value", "value")], fmt)
    elif rented:
        write_yaml(rows, document["manifests"])
    else:
        out = console()
        for row in rows:
            out.print(f"{row['what']:9} {row['value']}", soft_wrap=True)
    if fmt is Format.table:
        STATE.note("dry run: nothing was started.")


def plan_rows(target: Target, document: dict[str, Any]) -> list[dict[str, str]]:
    """The plan in a few lines for people."""
    from accelbench_assets.cli.progress import load_label

    steps = ", ".join(load_label(k, v) for k, v, _ in target.workload.ladder)
    if (objective := target.request["load"]["search_slo"]) is not None:
        from accelbench_assets.bench.slo import slo_id

        steps = f"a search for the capacity within {slo_id(objective)}, usually some 19 steps"
    times = [f"{document[name]:g} s" for name in ("warmup_s", "window_s", "tail_s")]
    each = "{} warm-up + {} window + up to {} tail".format(*times)
    found = {
        "cell": target.cell.key_text,
        "workload": f"{document['workload_id']} (evidence level {document['evidence_level']})",
        "steps": f"{steps}; each {each}",
        "time": f"about {document['planned_s']:.0f} s of load, deadline {document['deadline_s']:.0f} s",
        "would": _would(target),
        "lake": STATE.settings.lake_url,
    }
    if (cost := document.get("estimate")) is not None:
        found["cost"] = str(cost["text"])
    return [{"what": what, "value": value} for what, value in found.items()]


def _would(target: Target) -> str:
    cell = target.cell
    engine = f"{cell.engine} {cell.engine_version}"
    if (server := target.request.get("endpoint_url")) is not None:
        return f"measure {engine} at {server}"
    if cell.family == "local":
        return f"start {engine} on this machine"
    count = cell.deployment.replicas
    place = f"{count} x {cell.instance}" if count > 1 else cell.instance
    return f"start {engine} on {place} by way of EKS, namespace {STATE.settings.kube.namespace}"
