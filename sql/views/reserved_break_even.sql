-- Every reserved, savings and capacity-block price beside the on-demand price of the same place and type.
-- break_even_utilisation = effective hourly price / on-demand price: used for a smaller share of the term than this,
-- on-demand is cheaper. effective_at_60pct is the price of an hour that is used, when 60 % of them are.
-- Above 1 the commitment is dearer than on-demand even when every hour is used.
select
  c.provider, c.region, c.instance_type, c.os, c.tenancy, c.tier, c.payment_option, c.offering_class, c.term_hours,
  c.upfront_usd, c.usd_per_hour, c.instance_hourly_usd as effective_usd_per_hour,
  o.instance_hourly_usd as on_demand_usd_per_hour,
  cast(c.instance_hourly_usd as double) / nullif(cast(o.instance_hourly_usd as double), 0.0) as break_even_utilisation,
  cast(cast(c.instance_hourly_usd as double) / 0.6 as decimal(20, 10)) as effective_at_60pct_usd_per_hour,
  1.0 - cast(c.instance_hourly_usd as double) / nullif(cast(o.instance_hourly_usd as double), 0.0) as saving_share,
  c.price_point_id, o.price_point_id as on_demand_price_point_id, c.fetched_at as price_as_of,
  o.fetched_at as on_demand_price_as_of,
  case
    when c.instance_hourly_usd is null then coalesce(c.missing_reason, 'no price')
    when o.instance_hourly_usd is null then coalesce(o.missing_reason, 'no on-demand price of this type is known here')
  end as missing_reason
from latest_prices as c
left join latest_prices as o
  on o.tier = 'on_demand' and o.provider = c.provider and o.region = c.region and o.instance_type = c.instance_type
  and coalesce(o.os, '') = coalesce(c.os, '') and coalesce(o.tenancy, '') = coalesce(c.tenancy, '')
where c.tier in ('reserved_1y', 'reserved_3y', 'savings_1y', 'savings_3y', 'capacity_block')
