-- What a step's tokens and requests cost at the latest price of each region, tier and payment option.
-- stored: no (a join at read: nothing has to be made again when a day's prices or a run are added)
-- P = hourly_usd = instance_hourly_usd x instance_count, USD an hour (decimal, 10 digits): whole instances are billed,
-- whatever part of them the run used. Costs per unit are double; the whole hour is 3600 s times the rate of units.
-- full_hour: each recovers the whole hour by itself and must never be added to another.
-- split: the hour shared out with output tokens weighing 4 and cached input 0.1 of an uncached input token, a
--   convention that split_method names; blended_3to1 is (3 input + output) / 4 of it, the price aggregators' figure.
-- busy: the hour shared out by the time the engine prefills and decodes. prefill_busy_share = t / (t + N_out x step /
--   batch), with the mean TTFT of the run's single-user step as t, mean ITL as step and decode concurrency as batch.
-- regression: shadow prices of capacity from at least four workloads (mart mix_regression). input x rate + output x
--   rate + request x rate recovers the hour's price times regression_capacity_share, which says how full the step was.
-- if_share_billed: what the figure would be if only the used share of the accelerators were billed. Nobody bills so.
-- ci: the interval of the rate, inverted; a price has no interval, it has a date.
-- A result without a price keeps one row with missing_reason. Portable subset: tests run it on PostgreSQL too.
with unloaded as (
  select run_id, min(ttft_mean_ms) as prefill_ms
  from benchmark_results
  where load_kind = 'closed' and load_value = 1.0 and verdict <> 'void'
  group by run_id
),
-- The price stays apart from the step's own figures until the last moment, so that a filter on either finds few rows.
steps as (
  select
    b.*,
    coalesce(b.instance_count, 1) as instances,
    b.input_tokens_per_s * (1.0 - coalesce(b.prefix_cache_hit_share, 0.0)) as new_tokens_per_s,
    b.input_tokens_per_s * (1.0 - 0.9 * coalesce(b.prefix_cache_hit_share, 0.0)) + 4.0 * b.output_tokens_per_s
      as weighted_tokens_per_s,
    u.prefill_ms / nullif(
      u.prefill_ms + (b.output_tokens_per_s / nullif(b.requests_per_s, 0.0)) * b.itl_mean_ms
      / nullif(b.decode_concurrency_mean, 0.0), 0.0
    ) as prefill_busy_share,
    a.accelerator_count * coalesce(b.instance_count, 1) as accelerators_billed,
    f.input_token_s, f.output_token_s, f.request_s, f.basis as regression_basis, f.r2 as regression_r2,
    f.worst_residual as regression_worst_residual, f.mixes as regression_mixes,
    case
      when f.deployment is null then 'no step of this deployment is known to be at its limit' else f.missing_reason
    end as regression_missing_reason
  from benchmark_results as b
  left join unloaded as u on u.run_id = b.run_id
  left join instance_types as a on a.instance_type = b.instance_type
  left join mix_regression as f
    on f.preferred and f.deployment = b.deployment and f.origin = b.origin
    and f.evidence = case when b.evidence_level in ('standard', 'publication') then 'standard' else 'below_standard' end
),
priced as (
  select
    s.*,
    case
      when s.accelerators_used between 1 and s.accelerators_billed
        then cast(s.accelerators_used as double) / nullif(cast(s.accelerators_billed as double), 0.0)
    end as usage_share,
    p.provider, p.region as price_region, p.zone as price_zone, p.os, p.tenancy, p.tier, p.payment_option,
    p.offering_class, p.price_point_id, p.instance_hourly_usd, p.fetched_at as price_as_of, p.source as price_source,
    p.missing_reason as price_missing_reason,
    cast(p.instance_hourly_usd * s.instances as decimal(20, 10)) as hourly_usd,
    cast(p.instance_hourly_usd as double) * s.instances / 3600.0 as usd_per_s
  from steps as s
  left join latest_prices as p on p.instance_type = s.instance_type
)
select
  run_id, step_index, cell_id, cell_key, model, model_id, instance_type, engine, engine_version, quantization,
  workload_id, load_kind, load_value, evidence_level, origin, verdict, is_current,
  provider, price_region as region, price_zone as zone, os, tenancy, tier, payment_option, offering_class,
  price_point_id, coalesce(tier = 'declared', false) as price_declared,
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
  end as missing_reason,
  instances as instance_count, hourly_usd, accelerators_used, accelerators_billed,
  usage_share * usd_per_s / nullif(requests_per_s, 0.0) as usd_per_request_if_share_billed,
  usage_share * 1000000.0 * usd_per_s / nullif(output_tokens_per_s, 0.0)
    as usd_per_1m_output_full_hour_if_share_billed,
  usd_per_s / nullif(requests_per_s_ci_high, 0.0) as usd_per_request_ci_low,
  usd_per_s / nullif(requests_per_s_ci_low, 0.0) as usd_per_request_ci_high,
  1000000.0 * usd_per_s / nullif(output_tokens_per_s_ci_high, 0.0) as usd_per_1m_output_full_hour_ci_low,
  1000000.0 * usd_per_s / nullif(output_tokens_per_s_ci_low, 0.0) as usd_per_1m_output_full_hour_ci_high,
  usd_per_s / nullif(goodput_rps, 0.0) as usd_per_good_request,
  0.1 * 1000000.0 * usd_per_s / nullif(weighted_tokens_per_s, 0.0) as usd_per_1m_cached_input_split,
  7.0 * 1000000.0 * usd_per_s / nullif(4.0 * weighted_tokens_per_s, 0.0) as usd_per_1m_blended_3to1,
  input_tokens_per_s / nullif(output_tokens_per_s, 0.0) as input_output_ratio,
  prefill_busy_share,
  prefill_busy_share * 1000000.0 * usd_per_s / nullif(new_tokens_per_s, 0.0) as usd_per_1m_input_busy,
  (1.0 - prefill_busy_share) * 1000000.0 * usd_per_s / nullif(output_tokens_per_s, 0.0) as usd_per_1m_output_busy,
  1000000.0 * usd_per_s * input_token_s as usd_per_1m_input_regression,
  1000000.0 * usd_per_s * output_token_s as usd_per_1m_output_regression,
  usd_per_s * request_s as usd_per_request_regression,
  input_token_s * input_tokens_per_s + output_token_s * output_tokens_per_s + request_s * requests_per_s
    as regression_capacity_share,
  regression_basis, regression_mixes, regression_r2, regression_worst_residual, regression_missing_reason,
  ready_s, cast(usd_per_s * ready_s as decimal(20, 10)) as cold_start_usd,
  requests_per_s, input_tokens_per_s, output_tokens_per_s, goodput_rps
from priced
