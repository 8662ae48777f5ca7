-- The database project_data: the unchanged answers of OpenWeather, and the runs that fetched them. One transaction, which
-- may be killed at any point and run again; a table of an earlier version becomes a partition, and no row is moved.
--
-- The contract of raw.weather_observations, which dbt's landing model uses:
--   * Grain: one answer for one city. The ingestion stores each (city, data ->> 'dt') once, in its first version.
--   * Rows are only appended; with a retention, whole months are dropped.
--   * `ingested_at` is the time at which a row was written, not fetched: rows from a spool come late. An advisory lock
--     serializes the ingestion's writes, so a later commit of the ingestion has a later `ingested_at`; rows of other
--     writers have the start of their transaction.
--   * Filter with a literal, `where ingested_at > '…'`: this uses the primary key, and does not open older months.
--   * `data` is validated: an object with `dt` (whole seconds since 1970, not after tomorrow) and `main`; the values in
--     main, wind, clouds, rain, snow and coord are numbers below a million. A station may omit any of them.
--   * `units` is the requested unit system: standard, metric or imperial. Rows older than this column have null.
-- Answers that failed the validation are in raw.quarantine, runs in raw.ingestion_runs.
begin;
set local client_min_messages = warning;
select pg_advisory_xact_lock(1717, 2);

create schema if not exists raw;
-- Functions that the ingestion may call, but not read.
create schema if not exists upkeep;

-- A plain table of an earlier version is renamed first.
do $aside$
begin
    if (select relkind from pg_class where oid = to_regclass('raw.weather_observations')) = 'r' then
        alter table raw.weather_observations rename to weather_observations_before;
        alter table raw.weather_observations_before
            add column if not exists units text,
            drop constraint if exists weather_observations_units,
            add constraint weather_observations_units check (units in ('standard', 'metric', 'imperial')),
            drop constraint if exists weather_observations_pkey,
            alter column id drop identity if exists,
            alter column data set compression lz4;
        drop index if exists raw.weather_observations_ingested_at;
    end if;
end
$aside$;

create table if not exists raw.weather_observations (
    id bigint generated always as identity,
    city text not null,
    ingested_at timestamptz not null default now(),
    data jsonb compression lz4 not null,
    units text constraint weather_observations_units check (units in ('standard', 'metric', 'imperial')),
    -- This order of columns also serves the incremental read.
    constraint weather_observations_key primary key (ingested_at, id)
) partition by range (ingested_at);
-- With this index the ingestion finds the observations that it has stored.
create index if not exists weather_observations_told
    on raw.weather_observations (city, (data ->> 'dt') collate "C");

-- The renamed table becomes the partition up to the end of this month, or of the month of its newest row.
do $attach$
declare
    upto timestamptz;
begin
    if to_regclass('raw.weather_observations_before') is null
        or (select relispartition from pg_class where oid = to_regclass('raw.weather_observations_before')) then
        return;
    end if;
    select date_trunc('month', greatest(max(ingested_at), now()) at time zone 'UTC') at time zone 'UTC'
        into upto from raw.weather_observations_before;
    upto := (upto at time zone 'UTC' + interval '1 month') at time zone 'UTC';
    execute format('alter table raw.weather_observations attach partition raw.weather_observations_before '
                   'for values from (minvalue) to (%L)', upto);
    perform setval(pg_get_serial_sequence('raw.weather_observations', 'id'),
                   (select coalesce(max(id), 0) + 1 from raw.weather_observations_before), false);
end
$attach$;

-- Rejected answers with the reason. Grain: one answer. `bytes` is its full size, `body` its beginning.
create table if not exists raw.quarantine (
    id bigint generated always as identity primary key,
    city text not null,
    received_at timestamptz not null,
    ingested_at timestamptz not null default now(),
    units text,
    reason text not null,
    bytes bigint not null,
    body bytea not null,
    unique (city, received_at)
);

-- Runs of the ingestion, in two tables, as it may only append. Grain: one run; a run without an end was interrupted.
create table if not exists raw.ingestion_starts (
    run uuid primary key,
    started timestamptz not null
);
create table if not exists raw.ingestion_ends (
    run uuid primary key,
    finished timestamptz not null,
    asked int not null,
    stored int not null,
    unchanged int not null,
    failed int not null,
    quarantined int not null,
    spooled int not null,
    recovered int not null,
    requests int not null,
    error text
);
create or replace view raw.ingestion_runs as
select * from raw.ingestion_starts left join raw.ingestion_ends using (run);

-- The number of full months to keep; 0, or no row: all.
create table if not exists upkeep.retention (
    one boolean primary key default true check (one),
    months int not null check (months >= 0)
);

-- Create the partitions of this month and the next three, and drop expired ones. The ingestion calls it before it
-- writes. It runs as its owner and takes no arguments, so the caller cannot influence it.
create or replace function upkeep.partitions() returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set lock_timeout = '10s'
set client_min_messages = warning
as $partitions$
declare
    month timestamptz;
    name text;
    upto timestamptz;
    oldest timestamptz;
    kept int := coalesce((select r.months from upkeep.retention as r), 0);
begin
    perform pg_advisory_xact_lock(1717, 2);
    select coalesce(max(b.upto), '-infinity') into upto from upkeep.bounds as b;
    for ahead in 0..3 loop
        month := date_trunc('month', now()) + make_interval(months => ahead);
        continue when month < upto;
        name := to_char(month, '"weather_observations_"YYYY_MM');
        -- Attached afterwards, it does not block readers and writers.
        execute format('create table raw.%I (like raw.weather_observations including defaults '
                       'including constraints including compression)', name);
        execute format('alter table raw.weather_observations attach partition raw.%I for values from (%L) to (%L)',
                       name, month, month + interval '1 month');
    end loop;
    if kept = 0 then
        return;
    end if;
    oldest := date_trunc('month', now()) - make_interval(months => kept);
    begin
        for name in select b.name from upkeep.bounds as b where b.upto <= oldest loop
            execute format('drop table raw.%I', name);
        end loop;
    exception when lock_not_available then
        raise warning 'another session reads an expired partition: the next run drops it';
    end;
    delete from raw.quarantine where ingested_at < oldest;
    delete from raw.ingestion_ends where finished < oldest;
    delete from raw.ingestion_starts where started < oldest;
end
$partitions$;

-- The partitions, and the end of each.
create or replace view upkeep.bounds as
select
    child.relname::text as name,
    substring(pg_get_expr(child.relpartbound, child.oid) from $$TO \('([^']+)'\)$$)::timestamptz as upto
from pg_inherits
join pg_class as child on child.oid = pg_inherits.inhrelid
where pg_inherits.inhparent = 'raw.weather_observations'::regclass;

revoke all on function upkeep.partitions() from public;
select upkeep.partitions();
commit;
