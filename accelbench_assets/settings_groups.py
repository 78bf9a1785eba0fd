"""Groups of settings that only some installations need: Kubernetes, budget, watched releases, notifications.

Belongs here: the groups' fields with defaults and units. In the environment a field is
``ACCELBENCH_<GROUP>__<FIELD>``, in ``accelbench.toml`` it stands in the table ``[<group>]``.
Does not belong here: reading them from anywhere (``settings``), what is done with them.
"""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


class Group(BaseModel):
    """Frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class KubeSettings(Group):
    """How EKS is reached and what a run's objects need there.

    Without ``context`` and KUBECONFIG, a process inside a cluster uses its service account. Names of Secrets are
    references: their content is never read by the orchestrator.
    """

    context: str | None = Field(
        default=None, description="Context of the kubeconfig; default: its current one."
    )
    namespace: str = Field(
        default="accelbench-bench",
        pattern=_NAME,
        max_length=63,
        description="Namespace of all objects of runs.",
    )
    server_service_account: str = Field(
        default="accelbench-server", pattern=_NAME, description="Service account of model servers."
    )
    loadgen_service_account: str = Field(
        default="accelbench-loadgen", pattern=_NAME, description="Service account of load generators."
    )
    loadgen_image: str = Field(
        default="accelbench/loadgen:0.1.0",
        min_length=1,
        description="Image of the load generator, by digest or tag.",
    )
    loadgen_secret: str | None = Field(
        default=None,
        pattern=_NAME,
        description="Secret whose keys become the generator's environment (S3 keys).",
    )
    engine_images: dict[str, str] = Field(
        default_factory=dict,
        description="Engine images by flavour (vllm, vllm-neuron); {version} is replaced. Default: the public ones.",
    )
    hf_secret: str = Field(
        default="accelbench-hf-token",
        pattern=_NAME,
        description="Secret with the key `token` for gated models.",
    )
    model_cache: str | None = Field(
        default=None,
        pattern=r"^(pvc:[a-z0-9][-a-z0-9.]*|s3://.+)$",
        description="Where weights are kept between runs: pvc:NAME or s3://bucket/prefix; default: the node's disk.",
    )
    probe: str = Field(
        default="auto",
        pattern="^(auto|direct|proxy)$",
        description="How servers are probed: direct (pod address), proxy (through the API server), auto.",
    )
    provisioning_s: float = Field(
        default=900.0,
        gt=0,
        le=7200,
        description="Longest wait for a node before the run ends as no_capacity or unschedulable.",
    )
    start_s: float = Field(
        default=3600.0, gt=0, le=14_400, description="Longest time from a scheduled pod to its first answer."
    )
    lease_renew_s: float = Field(
        default=30.0, gt=0, le=600, description="Pause between renewals of a run's Lease."
    )
    lease_stale_s: float = Field(
        default=180.0, gt=0, le=3600, description="A Lease this old means that the orchestrator is gone."
    )
    require_reaper: bool = Field(
        default=True, description="Launch nothing where no reaper was seen in the last quarter of an hour."
    )
    poll_s: float = Field(default=1.0, gt=0, le=30, description="Pause between looks at a run's pods.")
    gpu_exporter: str | None = Field(
        default="http://{node_ip}:9400/metrics", description="DCGM exporter of the run's node."
    )
    neuron_exporter: str | None = Field(
        default="http://{node_ip}:8000/metrics", description="neuron-monitor exporter of the run's node."
    )


class BudgetSettings(Group):
    """What paid runs may cost. Refused before anything is started; US dollars."""

    max_usd_per_run: Decimal = Field(default=Decimal("25"), gt=0, description="Cap of one run's estimate.")
    max_usd_per_month: Decimal = Field(
        default=Decimal("500"), gt=0, description="Cap of spent and reserved money in a calendar month (UTC)."
    )
    max_runs: int = Field(default=8, ge=1, description="Paid runs that may be under way at once.")


class WatchSettings(Group):
    """Which releases are looked for, and how much they may start. Dry by default: nothing is spent."""

    suites: tuple[str, ...] = Field(default=(), description="Suites whose cells follow new releases.")
    dry_run: bool = Field(default=True, description="Say what would run; add and start nothing.")
    max_runs_per_tick: int = Field(default=4, ge=0, description="Runs one look may request.")
    max_runs_per_month: int = Field(default=40, ge=0, description="Runs a calendar month may request.")
    max_usd_per_month: Decimal = Field(
        default=Decimal("200"), ge=0, description="Estimated US dollars a calendar month may request."
    )
    every_s: int = Field(default=3600, ge=60, description="Seconds between looks.")
    pypi_url: str = Field(default="https://pypi.org", description="Package index that lists vLLM's releases.")
    registry_url: str = Field(
        default="https://registry-1.docker.io", description="Registry of the engine images (v2 API)."
    )
    hub_url: str = Field(default="https://huggingface.co", description="Model hub.")
    neuron_url: str = Field(
        default="https://public.ecr.aws",
        description="Registry of the Neuron images, whose tags name the SDK.",
    )


REGIONS = (
    *("us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-central-1", "eu-north-1"),
    *("ap-northeast-1", "ap-southeast-2", "ap-south-1"),
)
"""Nine regions in which accelerated instances are sold."""


class PricesSettings(Group):
    """Where prices come from beside the package. Off by default: credentials meant for another S3 server must not go to
    AWS.
    """

    aws: str = Field(
        default="off",
        pattern="^(off|auto|api|bulk)$",
        description="off; api (credentials), bulk (public offer files), auto (api with credentials, else bulk).",
    )
    regions: tuple[str, ...] = Field(
        default=REGIONS, min_length=1, description="AWS regions prices are asked for."
    )
    max_age_h: float = Field(
        default=20.0, gt=0, description="Answers younger than this are not asked for again."
    )
    timeout_s: float = Field(default=30.0, gt=0, le=300, description="Longest wait for a next byte.")
    block_hours: tuple[int, ...] = Field(default=(24,), description="Lengths of capacity blocks asked for.")
    bulk_url: str = Field(
        default="https://pricing.us-east-1.amazonaws.com", description="Where the public offer files are."
    )


class FactsSettings(Group):
    """What is asked live when facts are brought into the lake; without it the packaged facts are all there is."""

    regions: tuple[str, ...] = Field(
        default=REGIONS,
        min_length=1,
        description="AWS regions whose instance types are asked for.",
    )
    refresh_instances: bool = Field(
        default=False, description="Ask EC2 for instance types in the weekly refresh."
    )
    refresh_models: bool = Field(default=False, description="Ask the model hub in the weekly refresh.")


class NotifySettings(Group):
    """Who hears of the end of a run. URLs may hold secrets and are masked everywhere."""

    webhook_url: SecretStr | None = Field(default=None, description="Receives a JSON document by POST.")
    smtp_url: SecretStr | None = Field(
        default=None, description="smtp://USER:PASSWORD@HOST:PORT or smtps://…; mail goes out through it."
    )
    mail_from: str | None = Field(default=None, description="Sender of mails.")
    mail_to: tuple[str, ...] = Field(default=(), description="Receivers of mails.")
    on: tuple[str, ...] = Field(
        default=("success", "failure", "canceled"), description="Which ends are told."
    )
    page_url: str | None = Field(
        default=None, description="Address of the Dagster UI, for the link in a message."
    )


class PoolSettings(Group):
    """Runs at once by accelerator family; what a quota holds: floor(quota / biggest instance)."""

    limits: dict[str, int] = Field(default_factory=dict, description="Family to limit, such as {g6e: 2}.")


__all__ = [
    "BudgetSettings",
    "FactsSettings",
    "Group",
    "KubeSettings",
    "NotifySettings",
    "PoolSettings",
    "PricesSettings",
    "WatchSettings",
]
