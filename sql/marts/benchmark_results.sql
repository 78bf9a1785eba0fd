-- One row per succeeded run and step: identity, target, evidence, verdict, throughput, latency with gates.
-- A quantile is null unless its gate is published or wide; needs_n is the number of requests it would need.
-- verdict is the worst of the run's validity rules and the step's own. is_current marks the run that speaks for its
-- cell: measured before others, of the highest evidence level, then the newest, never void, superseded or withdrawn.
-- deployment is the cell without its workload. is_sound: at most 1 % of the requests failed, the window was steady where
-- that was judged, and the load was within what the server carries.
with judged as (
  select
    r.*,
    case
      when list_contains(json_extract_string(r.validity, '$.*.verdict'), 'void') then 'void'
      when list_contains(json_extract_string(r.validity, '$.*.verdict'), 'warn') then 'warn'
      else 'pass'
    end as run_verdict,
    exists (select 1 from supersessions as x where x.run_id = r.run_id) as superseded,
    case r.evidence_level when 'publication' then 4 when 'standard' then 3 when 'smoke' then 2 else 1 end
      as evidence_rank
  from runs as r
  where r.status = 'succeeded'
),
ordered as (
  select
    run_id,
    row_number() over (
      partition by cell_id
      order by
        origin = 'measured' desc, evidence_rank desc,
        coalesce(load_finished_at, committed_at, requested_at) desc nulls last, run_id desc
    ) as place
  from judged
  where not superseded and run_verdict <> 'void' and run_id in (select run_id from run_steps)
),
first_slo as (
  select *, row_number() over (partition by run_id, step_index order by slo_id) as place
  from slo_results
)
select
  r.run_id, s.step_index, r.cell_id, r.cell_key, r.suite_id, r.trial_index, r.block_id,
  r.evidence_level, r.origin, r.hardware, r.requested_by,
  case when s.verdict = 'void' or r.run_verdict = 'void' then 'void'
       when s.verdict = 'warn' or r.run_verdict = 'warn' then 'warn'
       else 'pass' end as verdict,
  coalesce(o.place = 1, false) as is_current,
  r.superseded,
  r.launcher, r.region, r.zone, r.instance_type,
  case when starts_with(r.instance_type, 'local-') then 'local'
       when starts_with(r.instance_type, 'endpoint-') then 'endpoint'
       else split_part(split_part(r.instance_type, '.', 1), '-', 1) end as family,
  r.instance_count, r.accelerator_kind, r.accelerator_name, r.accelerators_used, r.capacity_type,
  split_part(r.cell_key, '@', 1) as model, r.model_id, r.model_revision, r.quantization, r.weight_dtype,
  r.kv_cache_dtype, r.max_model_len,
  r.engine, r.engine_version, r.tp, r.pp, r.dp, r.ep, r.replicas, r.prefix_caching,
  r.workload_id, r.workload_hash, r.loadgen_version, r.requested_at, r.load_started_at, r.load_finished_at,
  r.committed_at, r.ready_s, r.cost_missing_reason,
  s.load_kind, s.load_value, s.window_s, s.requests_scheduled, s.ok, s.errors, s.error_rate, s.concurrency_mean,
  s.request_rate_offered, s.request_rate_achieved, s.requests_per_s, s.input_tokens_per_s, s.output_tokens_per_s,
  s.output_tokens_per_s_served, s.total_tokens_per_s, s.output_tokens_per_s_per_accelerator,
  s.interactivity_tokens_per_s, s.input_tokens_mean, s.output_tokens_mean, s.prefix_cache_hit_share, s.steady,
  s.saturation_label,
  ttft.n as ttft_n, ttft.mean as ttft_mean_ms,
  ttft.p50 as ttft_p50_ms, ttft.p50_gate as ttft_p50_gate, ttft.p50_needs_n as ttft_p50_needs_n,
  ttft.p90 as ttft_p90_ms, ttft.p90_gate as ttft_p90_gate, ttft.p90_needs_n as ttft_p90_needs_n,
  ttft.p95 as ttft_p95_ms, ttft.p95_gate as ttft_p95_gate, ttft.p95_needs_n as ttft_p95_needs_n,
  ttft.p99 as ttft_p99_ms, ttft.p99_gate as ttft_p99_gate, ttft.p99_needs_n as ttft_p99_needs_n,
  tpot.n as tpot_n, tpot.mean as tpot_mean_ms,
  tpot.p50 as tpot_p50_ms, tpot.p50_gate as tpot_p50_gate, tpot.p50_needs_n as tpot_p50_needs_n,
  tpot.p90 as tpot_p90_ms, tpot.p90_gate as tpot_p90_gate, tpot.p90_needs_n as tpot_p90_needs_n,
  tpot.p95 as tpot_p95_ms, tpot.p95_gate as tpot_p95_gate, tpot.p95_needs_n as tpot_p95_needs_n,
  tpot.p99 as tpot_p99_ms, tpot.p99_gate as tpot_p99_gate, tpot.p99_needs_n as tpot_p99_needs_n,
  itl.n as itl_n, itl.mean as itl_mean_ms,
  itl.p50 as itl_p50_ms, itl.p50_gate as itl_p50_gate, itl.p50_needs_n as itl_p50_needs_n,
  itl.p90 as itl_p90_ms, itl.p90_gate as itl_p90_gate, itl.p90_needs_n as itl_p90_needs_n,
  itl.p95 as itl_p95_ms, itl.p95_gate as itl_p95_gate, itl.p95_needs_n as itl_p95_needs_n,
  itl.p99 as itl_p99_ms, itl.p99_gate as itl_p99_gate, itl.p99_needs_n as itl_p99_needs_n,
  e2e.n as e2e_n, e2e.mean as e2e_mean_ms,
  e2e.p50 as e2e_p50_ms, e2e.p50_gate as e2e_p50_gate, e2e.p50_needs_n as e2e_p50_needs_n,
  e2e.p90 as e2e_p90_ms, e2e.p90_gate as e2e_p90_gate, e2e.p90_needs_n as e2e_p90_needs_n,
  e2e.p95 as e2e_p95_ms, e2e.p95_gate as e2e_p95_gate, e2e.p95_needs_n as e2e_p95_needs_n,
  e2e.p99 as e2e_p99_ms, e2e.p99_gate as e2e_p99_gate, e2e.p99_needs_n as e2e_p99_needs_n,
  g.slo_id, g.attainment as slo_attainment, g.decision as slo_decision, g.goodput_rps, g.goodput_output_tokens_per_s,
  s.requests_per_s_ci_low, s.requests_per_s_ci_high, s.output_tokens_per_s_ci_low, s.output_tokens_per_s_ci_high,
  s.decode_concurrency_mean,
  regexp_replace(r.cell_key, '~[^~]*$', '') as deployment,
  coalesce(s.error_rate, 1.0) <= 0.01 and coalesce(s.steady, true)
    and coalesce(s.saturation_label, '') not in ('overloaded', 'unstable') as is_sound
from judged as r
join run_steps as s on s.run_id = r.run_id
left join ordered as o on o.run_id = r.run_id
left join run_percentiles as ttft on ttft.run_id = s.run_id and ttft.step_index = s.step_index and ttft.metric = 'ttft'
left join run_percentiles as tpot on tpot.run_id = s.run_id and tpot.step_index = s.step_index and tpot.metric = 'tpot'
left join run_percentiles as itl on itl.run_id = s.run_id and itl.step_index = s.step_index and itl.metric = 'itl'
left join run_percentiles as e2e on e2e.run_id = s.run_id and e2e.step_index = s.step_index and e2e.metric = 'e2e'
left join first_slo as g on g.run_id = s.run_id and g.step_index = s.step_index and g.place = 1
order by r.run_id, s.step_index
