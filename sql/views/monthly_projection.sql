-- Replicas and dollars a month to serve a peak request rate within the latency target, at each latest price.
-- replicas = max(1, ceil(peak rate / (0.75 x capacity))): a quarter of the capacity is head room. The capacity is that
-- of the open-loop step that met the target (reporting_points, at_slo), never that of saturation; where is_bounded is
-- false nothing heavier was tried, and fewer replicas might do; a replica is the whole deployment, instance_count
-- instances. A month has 730 hours, all of them billed. 1.2, 12 and 120 a second are a hundred thousand, a million and
-- ten million requests a day; `accelbench cost --rps` takes any other rate.
with peaks as (
  select cast(rate as double) as rate from (values (1.2), (5.0), (12.0), (50.0), (120.0)) as given (rate)
),
sized as (
  select
    r.cell_id, r.run_id, r.step_index, r.deployment, r.model, r.model_id, r.instance_type,
    coalesce(r.instance_count, 1) as instances, r.workload_id, r.origin, r.evidence_level, r.slo_id,
    r.capacity_requests_per_s, r.is_bounded, k.rate as peak_requests_per_s,
    cast(greatest(1.0, ceil(k.rate / nullif(0.75 * r.capacity_requests_per_s, 0.0) - 0.000000001)) as bigint) as replicas
  from reporting_points as r
  cross join peaks as k
  where r.basis = 'at_slo'
)
select
  s.cell_id, s.run_id, s.step_index, s.deployment, s.model, s.model_id, s.instance_type, s.workload_id, s.origin,
  s.evidence_level, s.slo_id, s.capacity_requests_per_s, s.is_bounded, s.peak_requests_per_s, s.replicas,
  s.replicas * s.instances as instances,
  p.provider, p.region, p.zone, p.tier, p.payment_option, p.offering_class, p.price_point_id, p.instance_hourly_usd,
  cast(730.0 * cast(p.instance_hourly_usd as double) * s.instances * s.replicas as decimal(20, 6)) as usd_per_month,
  s.peak_requests_per_s / nullif(s.capacity_requests_per_s * s.replicas, 0.0) as utilisation_at_peak,
  cast(p.instance_hourly_usd as double) * s.instances * s.replicas / nullif(3600.0 * s.peak_requests_per_s, 0.0)
    as usd_per_request_at_peak,
  p.fetched_at as price_as_of, p.missing_reason
from sized as s
join latest_prices as p on p.instance_type = s.instance_type
