-- What the benchmark itself has cost: every attempt, whatever its end, and the month to date.
-- Imported runs are somebody else's expense and are left out.
-- usd = instances x hourly price x (provision + pull + load + run + tear down) / 3600. Where the run recorded its own
-- cost that counts (cost_basis recorded: at the price of that moment); else the latest price of its instance type,
-- region and capacity type is taken (latest_price, at least the 60 s that are billed anyway), or missing_reason says
-- why not. idle_node_usd is what a node of a cluster costs in the ten minutes it stays after its last pod, as the
-- budget ledger reserves and settles it. month_to_date_usd adds both up within the UTC month an attempt ended in,
-- unpriced ones as nothing.
with timed as (
  select
    r.run_id, r.cell_id, r.cell_key, r.status, r.failure_code, r.origin, r.launcher, r.instance_type, r.region,
    coalesce(r.instance_count, 1) as instance_count, r.capacity_type, r.requested_at,
    coalesce(r.torn_down_at, r.committed_at, r.load_finished_at, r.requested_at) as ended_at,
    r.run_cost_usd, r.cost_missing_reason,
    case
      when r.torn_down_at is not null and r.ready_at is not null
        then coalesce(r.ready_s, 0.0) + cast(extract(epoch from (r.torn_down_at - r.ready_at)) as double)
      when r.torn_down_at is not null then cast(extract(epoch from (r.torn_down_at - r.requested_at)) as double)
      when r.status = 'infra_lost' and r.launcher <> 'eks' then null  -- closed when it was found, not when it died
      when r.committed_at is not null then cast(extract(epoch from (r.committed_at - r.requested_at)) as double)
    end as seconds,
    case
      when r.capacity_type = 'spot' then 'spot'
      when r.capacity_type in ('capacity_block', 'capacity-block') then 'capacity_block'
      else 'on_demand'
    end as tier
  from runs as r
  where r.origin <> 'external'
),
offers as (
  select
    t.run_id, p.instance_hourly_usd, p.tier, p.price_point_id, p.fetched_at as price_as_of,
    row_number() over (
      partition by t.run_id
      order by case when p.tier = 'declared' then 0 else 1 end, p.fetched_at desc nulls last,
        p.instance_hourly_usd, p.price_point_id
    ) as place
  from timed as t
  join latest_prices as p on p.instance_type = t.instance_type
  where p.instance_hourly_usd is not null
    and (p.tier = 'declared' or (p.tier = t.tier and p.region = t.region))
),
priced as (
  select
    t.*, o.instance_hourly_usd, o.tier as price_tier, o.price_point_id, o.price_as_of,
    cast(
      case
        when t.run_cost_usd is not null then t.run_cost_usd
        when t.seconds is not null
          then cast(o.instance_hourly_usd as double) * t.instance_count * greatest(t.seconds, 60.0) / 3600.0
      end as decimal(20, 10)
    ) as usd,
    cast(
      case
        when t.launcher = 'eks' then cast(o.instance_hourly_usd as double) * t.instance_count * 600.0 / 3600.0
        else 0.0
      end as decimal(20, 10)
    ) as idle_node_usd
  from timed as t
  left join offers as o on o.run_id = t.run_id and o.place = 1
)
select
  run_id, cell_id, cell_key, status, failure_code, origin, launcher, instance_type, instance_count, region,
  capacity_type, requested_at, ended_at, seconds, instance_hourly_usd, price_tier, price_point_id, price_as_of,
  case when run_cost_usd is not null then 'recorded' when usd is not null then 'latest_price' end as cost_basis,
  usd, idle_node_usd, date_trunc('month', ended_at) as month,
  cast(
    sum(coalesce(usd, cast(0 as decimal(20, 10))) + coalesce(idle_node_usd, cast(0 as decimal(20, 10)))) over (
      partition by date_trunc('month', ended_at) order by ended_at, run_id
      rows between unbounded preceding and current row
    ) as decimal(20, 10)
  ) as month_to_date_usd,
  case
    when usd is null and seconds is null then 'its orchestrator died, so nobody knows how long it ran'
    when usd is null
      then coalesce(
        cost_missing_reason,
        concat('no ', tier, ' price of ', instance_type, ' is known in ', coalesce(region, 'an unstated region'))
      )
  end as missing_reason
from priced
order by ended_at, run_id
