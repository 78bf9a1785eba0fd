-- The latest price of every offer: provider, place, instance type, terms; USD an hour with upfront payments spread out.
-- A snapshot is whole: it holds everything that was known on its day, and snapshot_id begins with that day and grows
-- with it. So the last snapshot of the last day counts, and of that day's other ones (two that were written at once
-- miss what the other was told) what somebody was asked at a moment the last one knows nothing of.
-- The prices of one provider, region, type and tier are one answer: the answer that was given last counts, whole.
-- instance_hourly_usd is what one instance costs an hour over the whole term: hourly price + upfront / hours of term
-- (a capacity block: upfront / block hours). Null, never a guess, where missing_reason says why; a price of nothing, of
-- over a million an hour, or not in force when it was asked for, counts as none whoever wrote it.
with last as (
  select max(snapshot_id) as snapshot_id, substring(max(snapshot_id), 1, 10) as day from price_points
),
moments as (
  select distinct p.fetched_at
  from price_points as p
  join last as l on l.snapshot_id = p.snapshot_id
  where p.fetched_at is not null
),
known as (
  select
    p.price_point_id, p.snapshot_id, p.provider, p.region, p.zone, p.instance_type, p.os, p.tenancy, p.tier,
    p.payment_option, p.offering_class, p.term_hours, p.fetched_at, p.effective_from,
    max(p.fetched_at) over (partition by p.snapshot_id, p.provider, p.region, p.instance_type, p.tier) as asked_at
  from price_points as p
  join last as l on substring(p.snapshot_id, 1, 10) = l.day
  left join moments as m on m.fetched_at = p.fetched_at
  where p.snapshot_id = l.snapshot_id or (p.fetched_at is not null and m.fetched_at is null)
),
ordered as (
  select
    price_point_id,
    dense_rank() over (
      partition by provider, region, instance_type, tier order by asked_at desc nulls last, snapshot_id desc
    ) as answer,
    row_number() over (
      partition by
        snapshot_id, provider, region, zone, instance_type, os, tenancy, tier, payment_option, offering_class,
        term_hours
      order by fetched_at desc nulls last, effective_from desc nulls last, price_point_id desc
    ) as place
  from known
),
spread as (
  select
    p.*,
    cast(
      coalesce(
        p.effective_usd_per_hour,
        case
          when p.upfront_usd is null then p.usd_per_hour
          else coalesce(p.usd_per_hour, cast(0 as decimal(20, 10)))
            + cast(cast(p.upfront_usd as double) / nullif(p.term_hours, 0.0) as decimal(20, 10))
        end
      ) as decimal(20, 10)
    ) as hourly
  from price_points as p
  join ordered as o on o.price_point_id = p.price_point_id
  where o.answer = 1 and o.place = 1
),
judged as (
  select
    *,
    case
      when hourly <= 0 then concat('a price of ', cast(hourly as varchar), ' USD an hour is none')
      when hourly > 1000000 then 'a price of over a million USD an hour is none'
      when effective_from > fetched_at then 'the price was not in force yet when it was asked for'
    end as not_counted
  from spread
)
select
  price_point_id, snapshot_id, provider, region, zone, instance_type, os, tenancy, tier, payment_option, offering_class,
  usd_per_hour, upfront_usd, effective_usd_per_hour, term_hours, sku, effective_from, fetched_at, source, source_sha256,
  coalesce(missing_reason, not_counted) as missing_reason, usd_per_hour_p90,
  case when coalesce(missing_reason, not_counted) is null then hourly end as instance_hourly_usd
from judged
order by
  provider, region, instance_type, tier, payment_option nulls first, offering_class nulls first,
  term_hours nulls first, zone nulls first, price_point_id
