"""What a run on a rented machine would create and cost: the manifests themselves, and the estimate.

Belongs here: stand-ins for what is only known while it runs, and YAML that says which values those are.
Does not belong here: the manifests (``launch.manifests``), prices and caps (``budget``). Neither a cluster nor a
database is asked.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from accelbench_assets.cli.state import STATE
from accelbench_assets.cli.target import Target
from accelbench_assets.errors import LaunchError

RUN_ID = "00000000-0000-7000-8000-000000000000"
"""Stands for the id every run gets anew; its last 12 digits are in all names."""
UID = "00000000-0000-0000-0000-000000000000"
ONLY_KNOWN_AT_RUN_TIME = (
    f"the run id ({RUN_ID}, and its last 12 digits in names and labels) and the uid of the anchor ({UID})",
    "accelbench.io/expires-at, the Lease's times and holder, and the seconds left in the plan and the Job: from now on",
    "the replicas' addresses (replica-N.pending) and the nodes' (node-N.pending) in the plan",
    "the Job's zone: nodeSelector topology.kubernetes.io/zone is added once the servers' zone is known",
)


def manifests(target: Target) -> list[dict[str, Any]]:
    """Every object of the run in the order of its creation, with stand-ins. ``LaunchError`` as of the launch itself."""
    from accelbench_assets.bench.run import build_plan
    from accelbench_assets.cli.launching import as_run_request
    from accelbench_assets.launch.base import Deadline, Endpoint, Replica, ServerSpec
    from accelbench_assets.launch.kube.lease import lease_manifest
    from accelbench_assets.launch.kube.naming import EXPIRY_MARGIN_S
    from accelbench_assets.launch.manifests import load_objects, owned, server_objects

    settings, cell = STATE.settings, target.cell
    request = as_run_request(target, {**target.request, "run_id": RUN_ID, "reproduce_command": ""})
    now = datetime.now(UTC)
    expires_at = now + timedelta(seconds=request.deadline_s + EXPIRY_MARGIN_S)
    spec = ServerSpec(
        RUN_ID,
        cell,
        request.model_id,
        Path(),
        served_model_name=request.served_model_name,
        shards=request.load.shards,
        model_commit=target.request.get("model_commit"),
    )
    anchor, *served = server_objects(spec, settings.kube, expires_at=expires_at, region=settings.region)
    created = {**anchor, "metadata": {**anchor["metadata"], "uid": UID}}
    lease = lease_manifest(
        RUN_ID, cell.cell_id, created, now=now, expires_at=expires_at, stale_s=settings.kube.lease_stale_s
    )
    lease["metadata"]["namespace"] = settings.kube.namespace
    names = [f"replica-{index}.pending" for index in range(cell.deployment.replicas)]
    endpoint = Endpoint(
        model=spec.served_model_name or cell.model,
        replicas=tuple(Replica(name, f"http://{name}:8000") for name in names),
        facts={},
        read_metrics=dict,
        check_alive=lambda: None,
    )
    lake = STATE.lake()
    dataset = request.load.dataset
    plan = build_plan(
        request,
        endpoint,
        Deadline.after(request.deadline_s),
        dataset=f"{_on_s3(lake.incoming_uri(RUN_ID))}/dataset-{Path(dataset).name}" if dataset else None,
    )
    load = load_objects(
        spec,
        settings.kube,
        plan,
        lake.incoming_uri(RUN_ID),
        zone=None,
        deadline_s=int(plan.deadline_s),
        expires_at=expires_at,
        env={},
    )
    return [anchor, lease, *(owned(one, created) for one in (*served, *load))]


def _on_s3(uri: str) -> str:
    """Where a dataset would lie: with a lake that is a folder a stand-in, for no launch gets that far."""
    return uri if uri.startswith("s3://") else f"s3://lake.pending/{uri.rsplit('/lake/', 1)[-1]}"


def described_estimate(target: Target) -> dict[str, Any]:
    """The most the run may cost, or why that is not known, with ``text`` for people; asks no ledger."""
    from accelbench_assets.budget.base import paid_seconds
    from accelbench_assets.budget.estimate import estimate

    settings, cell = STATE.settings, target.cell
    try:
        found = estimate(
            cell.instance,
            instances=cell.deployment.replicas,
            region=settings.region,
            seconds=paid_seconds(target.request["deadline_s"], cell.deployment.replicas),
            declared=target.request["usd_per_hour"],
        )
    except LaunchError as error:
        missing = dict.fromkeys(("usd", "usd_per_hour", "hours", "price_source"))
        text = f"not known, so the run would be refused: {error.message} {error.hint or ''}".strip()
        return {**missing, "missing_reason": error.message, "max_usd_per_run": None, "text": text}
    cap = settings.budget.max_usd_per_run
    over = (
        f"; more than the cap of {cap} USD a run (budget.max_usd_per_run), so refused"
        if found.usd > cap
        else ""
    )
    rate = f"{found.usd_per_hour.normalize():f} USD/h for {float(found.hours):.2f} h"
    return {
        "usd": found.usd,
        "usd_per_hour": found.usd_per_hour,
        "hours": found.hours,
        "price_source": found.price_source,
        "missing_reason": None,
        "max_usd_per_run": cap,
        "text": f"at most {found.usd:.2f} USD ({rate}; price: {found.price_source}){over}",
    }


def write_yaml(rows: Sequence[Mapping[str, str]], objects: Sequence[Mapping[str, Any]]) -> None:
    """The plan as comments, then every object as a YAML document, on stdout."""
    out = sys.stdout
    for row in rows:
        out.write(f"# {row['what']:9} {row['value']}\n")
    out.write("# Known only while the run is under way, and stood for here:\n")
    out.writelines(f"#   - {text}\n" for text in ONLY_KNOWN_AT_RUN_TIME)
    for one in objects:
        out.write(f"---\n{_yaml(one)}")


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Without anchors and aliases, which few expect in a manifest."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return str(yaml.dump(dict(document), Dumper=Dumper, sort_keys=False, width=10_000, allow_unicode=True))
