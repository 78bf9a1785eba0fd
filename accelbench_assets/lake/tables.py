"""Schemas of every table in the lake: names, types, units. One place; readers and writers both cast to these.

Belongs here: field lists and their Arrow types. ``raw_samples`` is owned by ``loadgen.samples`` and
re-exported. Does not belong here: reading, writing, SQL.

Conventions: ``_ms`` durations are float64 milliseconds, clocks are UTC ``timestamp[us]``, money is
``decimal128(20, 10)`` USD, rates derived from money are float64. Null means not measured, zero means zero. A
trailing ``!`` marks a column that is never null. ``json`` columns are text holding a JSON document and carry
the field metadata ``json``. Every schema has ``schema_version`` in its metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

SCHEMA_VERSION = "1"

STATUSES = (
    "succeeded",
    "void",
    "failed",
    "cancelled",
    "timed_out",
    "infra_lost",
    "does_not_fit",
    "no_capacity",
    "not_sold",
)
ORIGINS = ("measured", "simulated", "estimated", "external")
EVIDENCE_LEVELS = ("demo", "smoke", "standard", "publication")
QUANTILES = ("p50", "p90", "p95", "p99", "p999")
ESTIMATE_STATES = ("estimated", "does_not_fit", "not_sold", "unknown")
"""What arithmetic and sources can say of a cell that was never run."""
GATES = ("published", "wide", "needs_n", "beyond_timeout", "derived")

_RUNS = """
run_id str!, cell_id str!, cell_key str!, suite_id str, trial_index i16, block_id str, evidence_level str!,
origin str!, hardware str, requested_by str,
launcher str, region str, zone str, instance_type str, instance_count i32, accelerator_kind str,
accelerator_name str, accelerators_used i32, node_name str, capacity_type str, host_fingerprint str,
model_id str, model_revision str, weights_sha256 str, quantization str, weight_dtype str, kv_cache_dtype str,
max_model_len i32,
engine str, engine_version str, image_digest str, engine_args json, env json, tp i32, pp i32, dp i32, ep i32,
replicas i32, router str, prefix_caching bool, spec_decoding str, driver_version str, runtime_version str,
neuron_sdk_version str,
loadgen_version str, workload_id str, workload_hash str, schedule_hash str, prompts_hash str, seed i64,
load_kind str, ladder json,
requested_at ts, provisioned_at ts, image_pulled_at ts, weights_loaded_at ts, ready_at ts, first_probe_at ts,
load_started_at ts, load_finished_at ts, committed_at ts, torn_down_at ts,
provision_s f64, image_pull_s f64, weights_s f64, compile_s f64, ready_s f64, overhead_s f64,
status str!, failure_code str, failure_text str, validity json, samples_rows i64, samples_sha256 str,
git_commit str, dagster_run_id str, partition_key str, triggered_by str, trigger_ref str, reproduce_command
str, source_url str,
run_cost_usd f64, price_point_id str, cost_missing_reason str, client json, capacity json, canary json
"""

_RUN_STEPS = """
run_id str!, cell_id str!, step_index i16!, load_kind str, load_value f64, window_s f64, requests_scheduled
i64, ok i64, errors i64, error_rate f64, concurrency_mean f64, request_rate_offered f64, request_rate_achieved
f64, requests_per_s f64, input_tokens_per_s f64, output_tokens_per_s f64, output_tokens_per_s_served f64,
total_tokens_per_s f64, output_tokens_per_s_per_accelerator f64, interactivity_tokens_per_s f64,
input_tokens_mean f64, output_tokens_mean f64, token_mismatch_share f64, prefix_cache_hit_share f64,
preemptions i64, queue_mean f64, kv_cache_use_p50 f64, kv_cache_use_max f64, accelerator_util_mean_pct f64,
accelerator_memory_peak_gib f64, power_mean_w f64, energy_j f64, joules_per_output_token f64, energy_valid
bool, steady bool, saturation_label str, verdict str, planned_cancels i64, requests_per_s_ci_low f64,
requests_per_s_ci_high f64, output_tokens_per_s_ci_low f64, output_tokens_per_s_ci_high f64, steady_reason str,
decode_concurrency_mean f64, throttled_s f64
"""

_RUN_PERCENTILES = (
    """
run_id str!, cell_id str!, step_index i16!, metric str!, unit str!, n i64, n_failed i64, n_eff f64, mean f64,
std f64, min f64, p50 f64, p90 f64, p95 f64, p99 f64, p999 f64, max f64,
"""
    + ",".join(f"{q}_ci_low f64, {q}_ci_high f64, {q}_gate str, {q}_needs_n i64" for q in QUANTILES)
    + ", method str, schema_version str"
)

_SLO_RESULTS = """
run_id str!, cell_id str!, step_index i16!, slo_id str!, ttft_ms f64, tpot_ms f64, e2e_ms f64, attainment f64,
attainment_low f64, attainment_high f64, goodput_rps f64, goodput_output_tokens_per_s f64, decision str
"""

_ENGINE_METRICS = "run_id str!, at ts!, source str!, name str!, labels json, value f64"

_RUN_COMPAT = """
run_id str!, cell_id str!, step_index i16!, tool str!, tool_version str, metric str!, unit str, n i64, mean f64,
p50 f64, p90 f64, p95 f64, p99 f64, note str
"""

_INSTANCE_TYPES = """
instance_type str!, family str!, provider str, accelerator_kind str, accelerator_name str, accelerator_count
i32, accelerator_memory_mib_each i64, accelerator_memory_mib_total i64, memory_bandwidth_gb_s_each f64,
bf16_tflops_each f64, fp8_tflops_each f64, neuron_cores i32, interconnect str, link_gb_s f64, vcpu i32,
memory_mib i64, network_gbps f64, efa_interfaces i32, local_nvme_gb i64, regions list, source str, as_of str,
confidence str, zones list, asked_at ts
"""

_MODELS = """
model_id str!, revision str!, architecture str, parameters i64, active_parameters i64, layers i32, hidden_size
i32, attention_heads i32, kv_heads i32, head_dim i32, attention_kind str, sliding_window i32, experts i32,
experts_per_token i32, vocab_size i32, max_position_embeddings i64, dtype str, quantization str, weight_bytes
i64, kv_bytes_per_token i64, gated bool, license str, fetched_at ts, source str
"""

_PRICE_POINTS = """
price_point_id str!, snapshot_id str!, provider str!, region str!, zone str, instance_type str!, os str,
tenancy str, tier str!, payment_option str, offering_class str, usd_per_hour dec, upfront_usd dec,
effective_usd_per_hour dec, term_hours f64, sku str, effective_from ts, fetched_at ts, source str,
source_sha256 str, missing_reason str, usd_per_hour_p90 dec
"""

_CELL_ESTIMATES = (
    """
cell_id str!, as_of ts!, region str!, state str!, reason str!, instances i32, concurrency i32, input_tokens_mean f64,
output_tokens_mean f64, kv_cache_tokens i64,
"""
    + ",".join(
        f"{name} f64, {name}_low f64, {name}_high f64"
        for name in ("requests_per_s", "ttft_ms", "tpot_ms", "output_tokens_per_s")
    )
    + ", measured_runs i32, usd_per_hour dec, price_missing_reason str, inputs_sha256 str!"
)

_SUPERSESSIONS = "run_id str!, superseded_by str, reason str!, author str, at ts!"
_ANNOTATIONS = "run_id str!, text str!, author str, at ts!"

_CELLS = """
cell_id str!, cell_key str!, family str!, model str!, revision str!, instance str!, engine str!,
engine_version str!, label str!, digest str!, workload str!
"""

_FIELDS: dict[str, str] = {
    "runs": _RUNS,
    "run_steps": _RUN_STEPS,
    "run_percentiles": _RUN_PERCENTILES,
    "slo_results": _SLO_RESULTS,
    "engine_metrics": _ENGINE_METRICS,
    "accelerator_metrics": _ENGINE_METRICS,
    "run_compat": _RUN_COMPAT,
    "instance_types": _INSTANCE_TYPES,
    "models": _MODELS,
    "price_points": _PRICE_POINTS,
    "cell_estimates": _CELL_ESTIMATES,
    "supersessions": _SUPERSESSIONS,
    "annotations": _ANNOTATIONS,
    "cells": _CELLS,
}

RUN_TABLES = (
    *("run_steps", "run_percentiles", "slo_results", "run_compat"),
    *("engine_metrics", "accelerator_metrics"),
)
"""Derived tables, one file a run: ``<table>/family=/cell_id=/run_id=/part-0.parquet``."""
FACT_TABLES = ("instance_types", "models", "price_points", "cell_estimates")
"""Facts by snapshot date: ``facts/<table>/date=/part-<hash>.parquet``."""
JUDGEMENT_TABLES = ("supersessions", "annotations")
"""Append-only judgements, stored like facts under ``judgements/``."""


def _type(name: str) -> Any:
    import pyarrow as pa

    return {
        "str": pa.string(),
        "json": pa.string(),
        "i16": pa.int16(),
        "i32": pa.int32(),
        "i64": pa.int64(),
        "f64": pa.float64(),
        "bool": pa.bool_(),
        "ts": pa.timestamp("us", tz="UTC"),
        "dec": pa.decimal128(20, 10),
        "list": pa.list_(pa.string()),
    }[name]


@cache
def _schema(table: str) -> Any:
    import pyarrow as pa

    if table == "raw_samples":
        from loadgen.samples import sample_schema

        return sample_schema()
    fields = []
    for item in _FIELDS[table].split(","):
        name, kind = item.split()
        metadata = {"json": "1"} if kind.startswith("json") else None
        fields.append(
            pa.field(name, _type(kind.rstrip("!")), nullable=not kind.endswith("!"), metadata=metadata)
        )
    return pa.schema(fields, metadata={"schema_version": SCHEMA_VERSION, "table": table})


class _Schemas(Mapping[str, Any]):
    """Table name -> ``pyarrow.Schema``, built when first asked for, so that importing this module stays
    cheap.
    """

    def __getitem__(self, table: str) -> Any:
        if table not in _FIELDS and table != "raw_samples":
            raise KeyError(table)
        return _schema(table)

    def __iter__(self) -> Iterator[str]:
        return iter((*_FIELDS, "raw_samples"))

    def __len__(self) -> int:
        return len(_FIELDS) + 1


SCHEMAS: Mapping[str, Any] = _Schemas()


def json_columns(schema: Any) -> tuple[str, ...]:
    """Names of the columns of *schema* whose text is a JSON document."""
    return tuple(f.name for f in schema if f.metadata and b"json" in f.metadata)
