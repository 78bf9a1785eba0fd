-- What the generator says of itself, capacity searches, answers checked, and figures imported from other tools.
-- A run without samples of ours can only be an external one, and other tools do not say everything. The gate 'derived' marks quantiles that are withheld
-- because the tokens of a chunk were inferred, not counted.

alter table runs
  add column client jsonb,
  add column capacity jsonb,
  add column canary jsonb,
  alter column samples_rows drop not null,
  alter column samples_sha256 drop not null,
  add constraint runs_samples_unless_external
    check (origin = 'external' or (samples_rows is not null and samples_sha256 is not null));
comment on column runs.client is 'One entry a generator process: its lag, CPU, ceiling and stamps.';
comment on column runs.capacity is 'Outcome of a capacity search, with every point that was tried.';
comment on column runs.canary is 'Task score and answer hashes of the canary prompts.';

alter table run_steps
  alter column requests_scheduled drop not null,
  alter column errors drop not null,
  add column planned_cancels bigint check (planned_cancels >= 0),
  add column requests_per_s_ci_low double precision,
  add column requests_per_s_ci_high double precision,
  add column output_tokens_per_s_ci_low double precision,
  add column output_tokens_per_s_ci_high double precision,
  add column steady_reason text,
  add column decode_concurrency_mean double precision,
  add column throttled_s double precision;
comment on column run_steps.planned_cancels is 'Requests the workload itself cancelled: in no latency, no failure.';
comment on column run_steps.decode_concurrency_mean is 'Output tokens/s times mean ITL: how many requests decode at a time.';

alter table run_percentiles alter column n drop not null;
alter table benchmark_results
  alter column requests_scheduled drop not null,
  alter column errors drop not null;

do $$
declare
  one record;
begin
  for one in
    select c.conname, c.conrelid::regclass as of_table, a.attname
    from pg_constraint as c
    join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    where c.contype = 'c' and cardinality(c.conkey) = 1 and a.attname like '%\_gate'
      and c.conrelid in ('run_percentiles'::regclass, 'benchmark_results'::regclass)
  loop
    execute format('alter table %s drop constraint %I', one.of_table, one.conname);
    execute format(
      'alter table %s add constraint %I check (%I in (''published'', ''wide'', ''needs_n'', ''beyond_timeout'', ''derived''))',
      one.of_table, one.conname, one.attname
    );
  end loop;
end
$$;
