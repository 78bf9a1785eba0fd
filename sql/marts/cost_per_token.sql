-- What a step's tokens and requests cost at the latest price of each region, tier and payment option.
-- P = instance_hourly_usd x instances x usage_share, in USD an hour; whole instances are billed, so usage_share is 1.
-- full_hour columns each recover the whole hour and must never be added; split columns share it out with output tokens
-- weighing 4 and cached input 0.1 of an uncached input token, a convention that split_method names.
-- A result without a price keeps one row with missing_reason. Portable subset: tests run it on PostgreSQL too.
with latest_prices as (
  select
    *,
    row_number() over (
      partition by provider, region, zone, instance_type, os, tenancy, tier, payment_option, offering_class
      order by fetched_at desc nulls last, effective_from desc nulls last, price_point_id desc
    ) as place
  from price_points
),
priced as (
  select
    b.run_id, b.step_index, b.cell_id, b.cell_key, b.model, b.model_id, b.instance_type, b.engine, b.engine_version,
    b.quantization, b.workload_id, b.load_kind, b.load_value, b.evidence_level, b.origin, b.verdict, b.is_current,
    p.provider, p.region, p.zone, p.os, p.tenancy, p.tier, p.payment_option, p.offering_class, p.price_point_id,
    coalesce(p.tier = 'declared', false) as price_declared,
    p.fetched_at as price_as_of, p.source as price_source,
    coalesce(
      cast(p.effective_usd_per_hour as double),
      case
        when p.upfront_usd is not null
          then coalesce(cast(p.usd_per_hour as double), 0.0) + cast(p.upfront_usd as double) / nullif(p.term_hours, 0.0)
        else cast(p.usd_per_hour as double)
      end
    ) as instance_hourly_usd,
    cast(coalesce(b.instance_count, 1) as double) as instances,
    cast(1.0 as double) as usage_share,
    b.requests_per_s, b.input_tokens_per_s, b.output_tokens_per_s, b.goodput_output_tokens_per_s,
    b.prefix_cache_hit_share,
    b.input_tokens_per_s * (1.0 - 0.9 * coalesce(b.prefix_cache_hit_share, 0.0)) + 4.0 * b.output_tokens_per_s
      as weighted_tokens_per_s,
    p.missing_reason as price_missing_reason, b.cost_missing_reason
  from benchmark_results as b
  left join latest_prices as p on p.instance_type = b.instance_type and p.place = 1
),
hourly as (
  select *, instance_hourly_usd * instances * usage_share / 3600.0 as usd_per_s from priced
)
select
  run_id, step_index, cell_id, cell_key, model, model_id, instance_type, engine, engine_version, quantization,
  workload_id, load_kind, load_value, evidence_level, origin, verdict, is_current,
  provider, region, zone, os, tenancy, tier, payment_option, offering_class, price_point_id, price_declared,
  instance_hourly_usd, usage_share,
  usd_per_s / nullif(requests_per_s, 0.0) as usd_per_request,
  1000000.0 * usd_per_s / nullif(input_tokens_per_s, 0.0) as usd_per_1m_input_full_hour,
  1000000.0 * usd_per_s / nullif(output_tokens_per_s, 0.0) as usd_per_1m_output_full_hour,
  1000000.0 * usd_per_s / nullif(input_tokens_per_s + output_tokens_per_s, 0.0) as usd_per_1m_total,
  1000000.0 * usd_per_s / nullif(weighted_tokens_per_s, 0.0) as usd_per_1m_input_split,
  4.0 * 1000000.0 * usd_per_s / nullif(weighted_tokens_per_s, 0.0) as usd_per_1m_output_split,
  case when prefix_cache_hit_share is null then 'weighted_w4_cache_unknown' else 'weighted_w4_d0.1' end as split_method,
  1000000.0 * usd_per_s / nullif(goodput_output_tokens_per_s, 0.0) as usd_per_1m_goodput_output,
  price_as_of, price_source,
  case
    when instance_hourly_usd is null
      then coalesce(price_missing_reason, cost_missing_reason, concat('no price is known for ', instance_type))
    when output_tokens_per_s is null or output_tokens_per_s = 0.0 then 'no output tokens were measured'
    when requests_per_s is null or requests_per_s = 0.0 then 'no request was completed in the window'
    when input_tokens_per_s is null or input_tokens_per_s = 0.0 then 'no input tokens were measured'
  end as missing_reason
from hourly
order by run_id, step_index, provider nulls first, region nulls first, tier nulls first, payment_option nulls first,
  price_point_id nulls first
