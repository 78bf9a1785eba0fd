-- Who serves a model's workload at the lowest cost: the cheapest eligible step of each cell, ranked.
-- Eligible: measured here, evidence level standard or publication, verdict not void, sound (benchmark_results), the
-- cell's current run, a price, and, where the workload has a latency target, a step that passed it (basis at_slo;
-- otherwise floor). Rank 1 is the cheapest within model, workload, provider, region, tier and payment option, each cell
-- at the best of its zones and offering classes; a publication of at least five trials goes before every standard result,
-- and equal cost shares a rank.
with trials as (
  select cell_id, count(distinct run_id) as trials
  from benchmark_results
  where origin = 'measured' and evidence_level = 'publication' and verdict <> 'void' and not superseded
  group by cell_id
),
eligible as (
  select
    c.*,
    case when c.evidence_level = 'publication' and coalesce(t.trials, 0) >= 5 then 0 else 1 end as evidence_order,
    b.error_rate, b.slo_id, b.slo_attainment,
    b.ttft_p50_ms, b.ttft_p95_ms, b.ttft_p99_ms, b.tpot_p50_ms, b.tpot_p95_ms, b.tpot_p99_ms,
    case when b.slo_id is null then 'floor' else 'at_slo' end as basis,
    row_number() over (
      partition by c.cell_id, c.model, c.workload_id, c.provider, c.region, c.tier, c.payment_option
      order by c.usd_per_1m_output_full_hour nulls last, c.step_index, c.price_point_id
    ) as place
  from cost_per_token as c
  join benchmark_results as b on b.run_id = c.run_id and b.step_index = c.step_index
  left join trials as t on t.cell_id = c.cell_id
  where c.origin = 'measured'
    and c.evidence_level in ('standard', 'publication')
    and c.verdict <> 'void'
    and c.is_current
    and c.missing_reason is null
    and b.is_sound
    and (b.slo_id is null or b.slo_decision = 'pass')
)
select
  rank() over (
    partition by model, workload_id, provider, region, tier, payment_option
    order by evidence_order, usd_per_1m_output_full_hour nulls last
  ) as price_rank,
  model, model_id, workload_id, provider, region, zone, tier, payment_option, offering_class, price_declared,
  cell_id, cell_key, run_id, step_index, instance_type, engine, engine_version, quantization,
  evidence_level, verdict, basis, slo_id, slo_attainment, load_kind, load_value,
  instance_hourly_usd, usd_per_1m_output_full_hour, usd_per_1m_input_full_hour, usd_per_1m_output_split,
  usd_per_1m_input_split, usd_per_request, output_tokens_per_s, requests_per_s, error_rate,
  ttft_p50_ms, ttft_p95_ms, ttft_p99_ms, tpot_p50_ms, tpot_p95_ms, tpot_p99_ms, price_as_of, price_source
from eligible
where place = 1
