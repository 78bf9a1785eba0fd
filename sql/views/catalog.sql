-- The results table a user queries: the current run of every cell, one row per step.
-- Origin, hardware, evidence level and verdict stand beside every figure.
select
  b.model, b.model_id, b.model_revision, b.instance_type, b.family, b.region, b.accelerator_name, b.accelerators_used,
  b.engine, b.engine_version, b.quantization, b.tp, b.replicas, b.workload_id, b.load_kind, b.load_value,
  b.origin, b.hardware, b.evidence_level, b.verdict,
  b.ttft_p50_ms, b.ttft_p90_ms, b.ttft_p95_ms, b.ttft_p99_ms, b.ttft_p99_gate, b.ttft_p99_needs_n,
  b.tpot_p50_ms, b.tpot_p90_ms, b.tpot_p95_ms, b.tpot_p99_ms, b.tpot_p99_gate, b.tpot_p99_needs_n,
  b.itl_p50_ms, b.itl_p90_ms, b.itl_p95_ms, b.itl_p99_ms, b.itl_p99_gate, b.itl_p99_needs_n,
  b.e2e_p50_ms, b.e2e_p90_ms, b.e2e_p95_ms, b.e2e_p99_ms, b.e2e_p99_gate, b.e2e_p99_needs_n,
  b.output_tokens_per_s, b.output_tokens_per_s_per_accelerator, b.requests_per_s, b.error_rate, b.steady,
  b.slo_id, b.slo_attainment, b.slo_decision, b.goodput_rps,
  b.requested_by, b.load_finished_at, b.cell_id, b.cell_key, b.run_id, b.step_index
from benchmark_results as b
where b.is_current
