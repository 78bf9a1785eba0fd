-- Every registered cell and how far it got: measured, simulated, external, estimated, failed or never_run.
with attempts as (
  select
    cell_id,
    count(*) as attempts,
    count(*) filter (where status = 'succeeded') as succeeded,
    count(*) filter (where status = 'succeeded' and origin = 'measured') as measured,
    count(*) filter (where status = 'succeeded' and origin = 'simulated') as simulated,
    count(*) filter (where status = 'succeeded' and origin = 'external') as external,
    arg_max(status, run_id) as latest_status,
    arg_max(failure_code, run_id) as latest_failure_code,
    max(run_id) as latest_run_id,
    max(committed_at) as latest_at
  from runs
  group by cell_id
)
select
  c.cell_id, c.cell_key, c.family, c.model, c.revision, c.instance, c.engine, c.engine_version, c.label, c.workload,
  case
    when a.measured > 0 then 'measured'
    when a.simulated > 0 then 'simulated'
    when a.external > 0 then 'external'
    when a.succeeded > 0 then 'estimated'
    when a.attempts > 0 then 'failed'
    else 'never_run'
  end as state,
  a.latest_status, a.latest_failure_code, a.latest_run_id, a.latest_at,
  coalesce(a.attempts, 0) as attempts, coalesce(a.succeeded, 0) as succeeded
from cells as c
left join attempts as a on a.cell_id = c.cell_id
order by c.cell_key
