-- What an hour of useful work costs on spot when interruptions throw some of it away, for assumed interruption rates.
-- useful hour = spot price / (1 - interruptions an hour x hours lost by each): what was in flight when the notice came,
-- plus the time until a new server is ready. Both are assumptions, named in the columns: nobody publishes them by type
-- and zone. Only for work that tolerates loss, else one more replica.
-- spot_usd_per_hour is the mean of 30 days weighted by time; nine tenths of that time cost spot_usd_per_hour_p90 at
-- most (null where the source had none), and useful_usd_per_hour_p90 is the useful hour at that price.
with scenarios as (
  select
    cast(rate as double) as interruptions_per_hour, cast(lost as double) as lost_hours,
    1.0 - cast(rate as double) * cast(lost as double) as useful_share
  from (values (0.01, 0.05), (0.05, 0.05), (0.05, 0.25), (0.2, 0.25)) as given (rate, lost)
)
select
  p.provider, p.region, p.zone, p.instance_type, p.os, p.tenancy, p.price_point_id,
  p.instance_hourly_usd as spot_usd_per_hour,
  s.interruptions_per_hour as assumed_interruptions_per_hour, s.lost_hours as assumed_lost_hours,
  cast(cast(p.instance_hourly_usd as double) / nullif(s.useful_share, 0.0) as decimal(20, 10)) as useful_usd_per_hour,
  o.instance_hourly_usd as on_demand_usd_per_hour,
  p.fetched_at as price_as_of,
  p.usd_per_hour_p90 as spot_usd_per_hour_p90,
  cast(cast(p.usd_per_hour_p90 as double) / nullif(s.useful_share, 0.0) as decimal(20, 10)) as useful_usd_per_hour_p90
from latest_prices as p
cross join scenarios as s
left join latest_prices as o
  on o.tier = 'on_demand' and o.provider = p.provider and o.region = p.region and o.instance_type = p.instance_type
  and coalesce(o.os, '') = coalesce(p.os, '') and coalesce(o.tenancy, '') = coalesce(p.tenancy, '')
where p.tier = 'spot' and p.instance_hourly_usd is not null
