-- The step that speaks for a cell's capacity: at_slo where an open-loop step met the target, and floor at saturation.
-- at_slo: the highest request rate among open-loop steps that passed the latency target: the only basis on which
-- replicas may be counted. floor: the highest rate of any step, with or without a target: the least a request can cost.
-- Eligible: the cell's current run, verdict not void, at most 1 % of the requests failed, steady where that was judged,
-- the load within what the server carries. deployment is the cell without its workload.
with eligible as (
  select
    b.cell_id, b.cell_key, b.run_id, b.step_index, b.model, b.model_id, b.instance_type, b.instance_count, b.engine,
    b.engine_version, b.workload_id, b.origin, b.evidence_level, b.verdict, b.slo_id, b.slo_attainment, b.slo_decision,
    b.load_kind, b.load_value, b.requests_per_s, b.input_tokens_per_s, b.output_tokens_per_s, b.ready_s,
    concat(
      split_part(b.cell_key, '~', 1), '~', split_part(b.cell_key, '~', 2), '~', split_part(b.cell_key, '~', 3), '~',
      split_part(b.cell_key, '~', 4)
    ) as deployment
  from benchmark_results as b
  where b.is_current
    and b.verdict <> 'void'
    and coalesce(b.error_rate, 1.0) <= 0.01
    and coalesce(b.steady, true)
    and coalesce(b.saturation_label, '') not in ('overloaded', 'unstable')
    and b.requests_per_s > 0.0
),
bases as (
  select 'at_slo' as basis, e.* from eligible as e where e.load_kind = 'open' and e.slo_decision = 'pass'
  union all
  select 'floor' as basis, e.* from eligible as e
),
ordered as (
  select
    *, row_number() over (partition by cell_id, basis order by requests_per_s desc, load_value, step_index) as place
  from bases
)
select
  cell_id, cell_key, deployment, basis, run_id, step_index, model, model_id, instance_type, instance_count, engine,
  engine_version, workload_id, origin, evidence_level, verdict, slo_id, slo_attainment, load_kind, load_value,
  requests_per_s as capacity_requests_per_s, input_tokens_per_s, output_tokens_per_s, ready_s
from ordered
where place = 1
