-- The cheapest cost of every current result on each tier: what one step's output tokens cost at best, and where.
with ordered as (
  select
    c.*,
    row_number() over (
      partition by c.run_id, c.step_index, c.tier
      order by c.usd_per_1m_output_full_hour nulls last, c.region nulls last, c.price_point_id nulls last
    ) as place
  from cost_per_token as c
  where c.is_current
)
select
  run_id, step_index, cell_id, cell_key, model, instance_type, workload_id, load_kind, load_value, evidence_level,
  origin, verdict, tier, region, payment_option, price_declared, instance_hourly_usd, usd_per_1m_output_full_hour,
  usd_per_1m_input_full_hour, usd_per_request, price_as_of, missing_reason
from ordered
where place = 1
