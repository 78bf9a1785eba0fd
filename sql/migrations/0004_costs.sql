-- Costs become a join at read, over the latest price of every offer; coverage of the grid; prices sent by snapshot.
-- cost_per_token is a view from now on: with a price list of nine regions its rows are a hundred for each step, and
-- every one of them would change every day. A view of yours on top of it has to be dropped before and made again after.

drop view if exists ranking, cheapest_price;
drop table cost_per_token;

alter table price_points add column usd_per_hour_p90 numeric(20, 10) check (usd_per_hour_p90 >= 0);
comment on column price_points.usd_per_hour_p90 is 'Spot: the price that 90 % of the last 30 days did not exceed; else null.';
alter table instance_types add column zones jsonb, add column asked_at timestamptz;

create table latest_prices (
  like price_points including constraints including comments,
  instance_hourly_usd numeric(20, 10) check (instance_hourly_usd >= 0),
  primary key (price_point_id),
  foreign key (price_point_id) references price_points,
  unique nulls not distinct
    (provider, region, zone, instance_type, os, tenancy, tier, payment_option, offering_class, term_hours),
  check (instance_hourly_usd is not null or missing_reason is not null)
);
comment on table latest_prices is
  'The latest price of every offer, or why there is none. instance_hourly_usd spreads upfront payments over the term.';
create index latest_prices_by_type on latest_prices (instance_type, region, tier);

create table price_snapshots (
  file text primary key,
  snapshot_id text not null,
  rows bigint not null check (rows >= 0)
);
comment on table price_snapshots is
  'Files of price points that were published, named by content: what is here is not sent again.';
create index price_points_by_snapshot on price_points (snapshot_id);

create table mix_regression (
  deployment text not null,
  basis text not null check (basis in ('at_slo', 'floor')),
  origin text not null check (origin in ('measured', 'simulated', 'estimated', 'external')),
  evidence text not null check (evidence in ('standard', 'below_standard')),
  mixes bigint not null check (mixes > 0),
  input_token_s double precision check (input_token_s >= 0),
  output_token_s double precision check (output_token_s >= 0),
  request_s double precision check (request_s >= 0),
  r2 double precision,
  worst_residual double precision,
  missing_reason text,
  preferred boolean not null,
  primary key (deployment, basis, origin, evidence),
  check (
    (missing_reason is null) = (input_token_s is not null and output_token_s is not null and request_s is not null)
  ),
  check (missing_reason is not null or (mixes >= 4 and worst_residual <= 0.1))
);
comment on table mix_regression is
  'Seconds of a deployment''s capacity per token and request, fitted over its workloads. Replaced for those of a lake.';

create table coverage (
  cell_id text primary key,
  cell_key text not null,
  family text not null,
  model text not null,
  revision text not null,
  instance text not null,
  engine text not null,
  engine_version text not null,
  label text not null,
  workload text not null,
  state text not null check (state in ('measured', 'simulated', 'external', 'estimated', 'does_not_fit', 'not_sold',
    'no_capacity', 'failed', 'infra_lost', 'never_run')),
  basis text check (basis in ('attempt', 'arithmetic')),
  latest_status text,
  latest_failure_code text,
  latest_run_id text,
  latest_at timestamptz,
  attempts bigint not null check (attempts >= 0),
  succeeded bigint not null check (succeeded between 0 and attempts),
  failure_code text,
  reason text not null,
  region text,
  check ((state = 'never_run') = (basis is null)),
  check (state <> 'never_run' or attempts = 0),
  check (basis is distinct from 'attempt' or attempts > 0),
  check (basis is distinct from 'arithmetic' or (succeeded = 0 and state in ('estimated', 'does_not_fit', 'not_sold'))),
  check (
    (succeeded > 0) = (state in ('measured', 'simulated', 'external') or (state = 'estimated' and basis = 'attempt'))
  )
);
comment on column coverage.basis is
  'What the state stands on: an attempt, or arithmetic and sources alone (cell_estimates); null: nothing is known.';
comment on table coverage is
  'Every registered cell and how far it got, with the reason. Replaced for the cells of a lake.';
create index coverage_by_state on coverage (state);

create table cell_estimates (
  cell_id text primary key,
  as_of timestamptz not null,
  region text not null,
  state text not null check (state in ('estimated', 'does_not_fit', 'not_sold', 'unknown')),
  reason text not null check (reason <> ''),
  instances integer check (instances > 0),
  concurrency integer check (concurrency > 0),
  input_tokens_mean double precision check (input_tokens_mean > 0),
  output_tokens_mean double precision check (output_tokens_mean > 0),
  kv_cache_tokens bigint check (kv_cache_tokens >= 0),
  requests_per_s double precision,
  requests_per_s_low double precision check (requests_per_s_low > 0 and requests_per_s_low <= requests_per_s),
  requests_per_s_high double precision check (requests_per_s_high >= requests_per_s),
  ttft_ms double precision,
  ttft_ms_low double precision check (ttft_ms_low > 0 and ttft_ms_low <= ttft_ms),
  ttft_ms_high double precision check (ttft_ms_high >= ttft_ms),
  tpot_ms double precision,
  tpot_ms_low double precision check (tpot_ms_low > 0 and tpot_ms_low <= tpot_ms),
  tpot_ms_high double precision check (tpot_ms_high >= tpot_ms),
  output_tokens_per_s double precision,
  output_tokens_per_s_low double precision
    check (output_tokens_per_s_low > 0 and output_tokens_per_s_low <= output_tokens_per_s),
  output_tokens_per_s_high double precision check (output_tokens_per_s_high >= output_tokens_per_s),
  measured_runs integer check (measured_runs >= 0),
  usd_per_hour numeric(20, 10) check (usd_per_hour >= 0),
  price_missing_reason text,
  inputs_sha256 text not null,
  check ((usd_per_hour is null) = (price_missing_reason is not null)),
  check ((state = 'estimated') = (requests_per_s is not null)),
  check ((requests_per_s is null) = (concurrency is null)),
  check ((requests_per_s is null) = (measured_runs is null))
);
comment on table cell_estimates is
  'What is known of a cell without running it: never a measurement. Replaced for the cells of a lake.';
comment on column cell_estimates.requests_per_s is
  'Of the whole cell at concurrency, the highest within the workload''s objective; _low and _high bound it.';
comment on column cell_estimates.measured_runs is 'Measured runs behind the interval; 0: priors alone.';
comment on column cell_estimates.usd_per_hour is 'All instances of the cell, on demand in region.';

alter table benchmark_results
  add column requests_per_s_ci_low double precision,
  add column requests_per_s_ci_high double precision,
  add column output_tokens_per_s_ci_low double precision,
  add column output_tokens_per_s_ci_high double precision,
  add column decode_concurrency_mean double precision,
  add column deployment text,
  add column is_sound boolean;

-- Rows of a lake that is not published again stay eligible as they were.
update benchmark_results set
  deployment = regexp_replace(cell_key, '~[^~]*$', ''),
  is_sound = coalesce(error_rate, 1.0) <= 0.01 and coalesce(steady, true)
    and coalesce(saturation_label, '') not in ('overloaded', 'unstable');
alter table benchmark_results alter column deployment set not null, alter column is_sound set not null;
