-- The budget ledger: what a paid run may cost is reserved here before anything is started, and settled at its end.
-- It holds decisions, not results: it is read and written under a lock of its own, and nothing is published into it.

create table budget_ledger (
  reservation_id uuid primary key default gen_random_uuid(),
  run_id text not null unique,
  instance_type text not null,
  usd_per_hour numeric(20, 10) not null check (usd_per_hour > 0),
  reserved_usd numeric(20, 10) not null check (reserved_usd > 0),
  settled_usd numeric(20, 10) check (settled_usd >= 0),
  reserved_at timestamptz not null,
  expires_at timestamptz not null check (expires_at > reserved_at),
  settled_at timestamptz check (settled_at >= reserved_at),
  settled_how text check (settled_how in ('settled', 'reaped', 'expired')),
  constraint budget_ledger_settled_whole
    check ((settled_usd is null) = (settled_at is null) and (settled_usd is null) = (settled_how is null))
);
comment on table budget_ledger is
  'One paid run a row, US dollars. Open (settled_usd null) until it is settled; an open row counts with reserved_usd.';
comment on column budget_ledger.usd_per_hour is 'All instances of the run together.';
comment on column budget_ledger.expires_at is 'Moved on while the run lives; after it the run counts as dead.';
comment on column budget_ledger.settled_at is 'The month it falls in bears the cost; of an expired row this is expires_at.';
comment on column budget_ledger.settled_how is
  'settled: by the run itself; reaped: by the reaper; expired: assumed, and replaced by either of the others.';
create index budget_ledger_open on budget_ledger (expires_at) where settled_usd is null;
create index budget_ledger_by_month on budget_ledger (settled_at) where settled_usd is not null;
