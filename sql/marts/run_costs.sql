-- What the benchmark itself has cost: every attempt, whatever its end, and the month to date.
-- Imported runs are somebody else's expense and are left out.
-- usd is everything that was paid. Where the run recorded its own cost that counts (cost_basis recorded: at the price
-- of that moment, a cluster's idle node included). Else nothing_rented: a cluster's run that ended before it had a machine
-- costs 0. Else latest_price: instances x latest price of the type, region and capacity type x billed time / 3600, at
-- least the 60 s that are billed anyway, and the ten minutes that a node of a cluster stays after its last pod, which
-- the budget ledger reserves and settles as well (idle_node_usd is that part of usd; null in a recorded sum).
-- seconds is the billed time. Of a cluster's run it is counted from when its pods had their nodes until they were
-- gone, so waiting for capacity is not in it, and wall time never stands in for it. Else missing_reason says why not.
-- month_to_date_usd adds usd up within the UTC month an attempt ended in, unpriced ones as nothing.
with timed as (
  select
    r.run_id, r.cell_id, r.cell_key, r.status, r.failure_code, r.origin, r.launcher, r.instance_type, r.region,
    coalesce(r.instance_count, 1) as instance_count, r.capacity_type, r.requested_at,
    coalesce(r.torn_down_at, r.committed_at, r.load_finished_at, r.requested_at) as ended_at,
    r.run_cost_usd, r.cost_missing_reason, coalesce(r.launcher = 'eks', false) as rents_nodes,
    coalesce(r.launcher = 'eks', false) and r.provisioned_at is null and r.run_cost_usd is null
      and r.cost_missing_reason is not null as nothing_rented,
    case
      when r.launcher = 'eks' and (r.torn_down_at is null or r.provisioned_at is null) then null
      when r.launcher = 'eks'
        then greatest(cast(extract(epoch from (r.torn_down_at - r.provisioned_at)) as double), 0.0)
      when r.torn_down_at is not null and r.ready_at is not null
        then coalesce(r.ready_s, 0.0) + cast(extract(epoch from (r.torn_down_at - r.ready_at)) as double)
      when r.torn_down_at is not null then cast(extract(epoch from (r.torn_down_at - r.requested_at)) as double)
      when r.status = 'infra_lost' then null  -- closed when it was found, not when it died
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
hourly as (
  select
    t.*, o.instance_hourly_usd, o.tier as price_tier, o.price_point_id, o.price_as_of,
    case
      when t.run_cost_usd is not null then 'recorded'
      when t.nothing_rented then 'nothing_rented'
      when t.seconds is not null and o.instance_hourly_usd is not null then 'latest_price'
    end as cost_basis,
    cast(o.instance_hourly_usd as double) * t.instance_count / 3600.0 as usd_per_s
  from timed as t
  left join offers as o on o.run_id = t.run_id and o.place = 1
),
priced as (
  select
    h.*,
    cast(
      case h.cost_basis
        when 'recorded' then h.run_cost_usd
        when 'nothing_rented' then 0.0
        when 'latest_price'
          then h.usd_per_s * (greatest(h.seconds, 60.0) + case when h.rents_nodes then 600.0 else 0.0 end)
      end as decimal(20, 10)
    ) as usd,
    cast(
      case
        when not h.rents_nodes or h.cost_basis = 'nothing_rented' then 0.0
        when h.cost_basis = 'latest_price' then h.usd_per_s * 600.0
      end as decimal(20, 10)
    ) as idle_node_usd
  from hourly as h
)
select
  run_id, cell_id, cell_key, status, failure_code, origin, launcher, instance_type, instance_count, region,
  capacity_type, requested_at, ended_at, seconds, instance_hourly_usd, price_tier, price_point_id, price_as_of,
  cost_basis, usd, idle_node_usd, date_trunc('month', ended_at) as month,
  cast(
    sum(coalesce(usd, cast(0 as decimal(20, 10)))) over (
      partition by date_trunc('month', ended_at) order by ended_at, run_id
      rows between unbounded preceding and current row
    ) as decimal(20, 10)
  ) as month_to_date_usd,
  case
    when usd is not null then null
    when status = 'infra_lost' and seconds is null then 'its orchestrator died, so nobody knows how long it ran'
    when seconds is null and rents_nodes
      then 'when its machines were there is not on record, and wall time is not what is billed'
    when seconds is null then 'how long it ran is not on record'
    else coalesce(
      cost_missing_reason,
      concat('no ', tier, ' price of ', instance_type, ' is known in ', coalesce(region, 'an unstated region'))
    )
  end as missing_reason
from priced
order by ended_at, run_id
