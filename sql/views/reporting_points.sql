-- The step that speaks for a cell's capacity: at_slo where an open-loop step met the target, and floor at saturation.
-- at_slo: the highest request rate among open-loop steps that passed the latency target: the only basis on which
-- replicas may be counted. floor: the highest rate of any step, with or without a target: the least a request can cost.
-- is_bounded: whether the run shows that this is the limit, not just the highest rate that was tried. at_slo: a heavier
-- step missed the target, or was more than the server carries, although its rate was at most a tenth above. floor: a load
-- at least a quarter heavier brought at most a tenth more, or one a fifth lighter brought nine tenths of it already, or
-- the server was seen to admit no more requests at a time.
-- Eligible: the cell's current run, verdict not void, sound (benchmark_results).
with eligible as (
  select
    b.cell_id, b.cell_key, b.run_id, b.step_index, b.model, b.model_id, b.instance_type, b.instance_count, b.engine,
    b.engine_version, b.workload_id, b.origin, b.evidence_level, b.verdict, b.slo_id, b.slo_attainment, b.slo_decision,
    b.load_kind, b.load_value, b.requests_per_s, b.input_tokens_per_s, b.output_tokens_per_s, b.ready_s, b.deployment
  from benchmark_results as b
  where b.is_current
    and b.verdict <> 'void'
    and b.is_sound
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
),
chosen as (
  select * from ordered where place = 1
),
bounds as (
  select
    c.cell_id, c.basis,
    max(
      case
        when c.basis = 'at_slo'
          and (h.slo_decision = 'fail' or h.saturation_label in ('overloaded', 'unstable'))
          and h.requests_per_s <= 1.1 * c.requests_per_s
          and (
            (h.load_kind = c.load_kind and h.load_value > c.load_value)
            or (h.load_kind <> c.load_kind and h.requests_per_s >= 0.9 * c.requests_per_s)
          ) then 1
        when c.basis = 'floor' and h.saturation_label = 'admission-limited' then 1
        when c.basis = 'floor' and h.load_kind = c.load_kind
          and (
            (h.load_value >= 1.25 * c.load_value and h.requests_per_s <= 1.1 * c.requests_per_s)
            or (h.load_value <= 0.8 * c.load_value and h.requests_per_s >= 0.9 * c.requests_per_s)
          ) then 1
        else 0
      end
    ) as bounded
  from chosen as c
  join benchmark_results as h on h.run_id = c.run_id and h.requests_per_s > 0.0
  group by c.cell_id, c.basis
)
select
  c.cell_id, c.cell_key, c.deployment, c.basis, c.run_id, c.step_index, c.model, c.model_id, c.instance_type,
  c.instance_count, c.engine, c.engine_version, c.workload_id, c.origin, c.evidence_level, c.verdict, c.slo_id,
  c.slo_attainment, c.load_kind, c.load_value, c.requests_per_s as capacity_requests_per_s, c.input_tokens_per_s,
  c.output_tokens_per_s, c.ready_s, coalesce(b.bounded, 0) = 1 as is_bounded
from chosen as c
left join bounds as b on b.cell_id = c.cell_id and b.basis = c.basis
