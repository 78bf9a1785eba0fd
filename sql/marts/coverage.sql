-- Every registered cell and how far it got, with the reason: the whole grid, whatever was never tried included.
-- state: measured, simulated, external or estimated if an attempt succeeded (in that order); else what its latest
-- attempt ended as: does_not_fit, not_sold, no_capacity, infra_lost, or failed with failure_code (a void or timed-out
-- attempt counts as failed). Where nothing was tried, or all of it was cancelled, the newest row of cell_estimates says
-- what arithmetic and sources know without paying: not_sold, does_not_fit or estimated; else never_run (failed, if all
-- was cancelled). basis: attempt or arithmetic, whichever the state stands on; null where nothing is known.
with attempts as (
  select
    cell_id,
    count(*) as attempts,
    count(*) filter (where status <> 'cancelled') as telling,
    count(*) filter (where status = 'succeeded') as succeeded,
    count(*) filter (where status = 'succeeded' and origin = 'measured') as measured,
    count(*) filter (where status = 'succeeded' and origin = 'simulated') as simulated,
    count(*) filter (where status = 'succeeded' and origin = 'external') as external
  from runs
  group by cell_id
),
ordered as (
  select
    cell_id, run_id, status, failure_code, failure_text, region, committed_at, requested_at,
    row_number() over (partition by cell_id order by run_id desc) as place,
    row_number() over (
      partition by cell_id order by case when status = 'cancelled' then 1 else 0 end, run_id desc
    ) as telling_place
  from runs
),
judged as (
  select
    c.cell_id,
    case
      when a.telling > 0 then 'attempt'
      when e.state in ('not_sold', 'does_not_fit', 'estimated') then 'arithmetic'
      when a.attempts > 0 then 'attempt'
    end as basis
  from cells as c
  left join attempts as a on a.cell_id = c.cell_id
  left join cell_estimates as e on e.cell_id = c.cell_id
)
select
  c.cell_id, c.cell_key, c.family, c.model, c.revision, c.instance, c.engine, c.engine_version, c.label, c.workload,
  case
    when j.basis is null then 'never_run'
    when j.basis = 'arithmetic' then e.state
    when a.measured > 0 then 'measured'
    when a.simulated > 0 then 'simulated'
    when a.external > 0 then 'external'
    when a.succeeded > 0 then 'estimated'
    when t.status in ('does_not_fit', 'not_sold', 'no_capacity', 'infra_lost') then t.status
    else 'failed'
  end as state,
  j.basis,
  l.status as latest_status, l.failure_code as latest_failure_code, l.run_id as latest_run_id,
  coalesce(l.committed_at, l.requested_at) as latest_at,
  coalesce(a.attempts, 0) as attempts, coalesce(a.succeeded, 0) as succeeded,
  case
    when j.basis = 'attempt' and a.succeeded = 0 then coalesce(t.failure_code, nullif(t.status, 'failed'))
  end as failure_code,
  case
    when a.succeeded > 0
      then concat(cast(a.succeeded as varchar), ' of ', cast(a.attempts as varchar), ' attempts succeeded')
    when j.basis = 'arithmetic' and a.attempts > 0
      then concat(e.reason, '; every attempt so far was cancelled (', cast(a.attempts as varchar), ')')
    when j.basis = 'arithmetic' then e.reason
    when j.basis is null and e.reason is not null then concat('never attempted; ', e.reason)
    when j.basis is null then 'never attempted'
    when t.status = 'not_sold' then coalesce(t.failure_text, concat('not sold in ', coalesce(t.region, 'this region')))
    when t.status = 'no_capacity'
      then coalesce(t.failure_text, concat('no capacity in ', coalesce(t.region, 'this region')))
    when t.status = 'does_not_fit' then coalesce(t.failure_text, 'the model does not fit this instance')
    else coalesce(t.failure_text, t.failure_code, t.status)
  end as reason,
  case
    when j.basis = 'arithmetic' then e.region
    when j.basis = 'attempt' and a.succeeded = 0 then t.region
  end as region
from cells as c
join judged as j on j.cell_id = c.cell_id
left join attempts as a on a.cell_id = c.cell_id
left join ordered as l on l.cell_id = c.cell_id and l.place = 1
left join ordered as t on t.cell_id = c.cell_id and t.telling_place = 1
left join cell_estimates as e on e.cell_id = c.cell_id
order by c.cell_key
