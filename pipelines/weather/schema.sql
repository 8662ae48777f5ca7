-- The database project_data: OpenWeather's responses, unchanged, and the record of their ingestion. The tables are made
-- in one transaction, which may be killed at any point and run again; an older table is extended in place, no row moves.
--
-- Guarantees for readers of raw.weather_observations (dbt's landing is one):
--   * Grain: one revision of one observation: city, data ->> 'dt', revision. The ingestion stores revision 0 once, as it
--     was first received; `backfill --replace` appends the next revision. The newest revision counts. The numbers have
--     gaps: that of an observation from before a dropped month starts above all numbers that were given before.
--   * Rows are only appended; with a retention, whole months are dropped and named in raw.dropped_months. With an archive,
--     whole months move to object storage and are named in raw.archived_months, too.
--   * `inserted_xid` is the transaction that wrote the row. It orders rows independently of every clock: all rows below
--     pg_snapshot_xmin(pg_current_snapshot()) are committed or will never be. Rows from before this column carry the
--     transaction that added it.
--   * `ingested_at` is the start of the writing statement by PostgreSQL's clock, after all earlier writers' commits. Spooled rows arrive late, and a clock
--     can jump: do not read increments by it. It selects the partition.
--   * `data` is validated: an object with `dt` (whole seconds, from 1979 to a few minutes after the receipt) and `main`.
--     The values in main, wind, clouds, rain, snow and coord are finite numbers or null, and can be implausible.
--   * `units` are those of the request: standard, metric or imperial. Rows older than this column have null.
--   * raw.exclusions lists the observations that readers must ignore.
-- Invalid responses are in raw.quarantine, runs in raw.ingestion_runs.
begin;
set local client_min_messages = warning;
create schema if not exists raw;
-- Functions that the ingestion may call. It cannot read this schema's tables.
create schema if not exists upkeep;
comment on schema upkeep is 'homelab functions of raw';
-- Empty tables as locks: unlike an advisory lock, no role without a privilege on the table can take one.
create table if not exists upkeep.writer_lock ();
create table if not exists upkeep.partition_lock ();
lock table upkeep.partition_lock in exclusive mode;

-- The first version had a plain table: rename it, so that it can become a partition.
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
    ingested_at timestamptz not null default statement_timestamp(),
    data jsonb compression lz4 not null,
    units text constraint weather_observations_units check (units in ('standard', 'metric', 'imperial')),
    revision integer not null default 0,
    inserted_xid xid8 not null default pg_current_xact_id(),
    -- The partition key has to be part of it. The writers' lock keeps (city, dt, revision) unique.
    constraint weather_observations_key primary key (ingested_at, id)
) partition by range (ingested_at);

-- Tables of earlier versions lack columns. PostgreSQL stores such a default once, not in every row; the check comes
-- first, because the statement locks readers out even if it changes nothing.
do $extend$
declare
    older regclass;
begin
    for older in
        select c.oid from pg_class as c
        where c.oid in (to_regclass('raw.weather_observations'), to_regclass('raw.weather_observations_before'))
            and not c.relispartition
            and not exists (select from pg_attribute as a where a.attrelid = c.oid and a.attname = 'inserted_xid')
    loop
        execute format('alter table %s add column if not exists revision integer not null default 0, '
                       'add column if not exists inserted_xid xid8 not null default pg_current_xact_id()', older);
    end loop;
    if exists (
        select from pg_attrdef as d
        where d.adrelid = 'raw.weather_observations'::regclass and pg_get_expr(d.adbin, d.adrelid) = 'now()'
    ) then
        alter table raw.weather_observations alter column ingested_at set default statement_timestamp();
    end if;
end
$extend$;

-- Serves the ingestion's question: is this observation stored already?
create index if not exists weather_observations_told
    on raw.weather_observations (city, (data ->> 'dt') collate "C");

-- The renamed table holds everything up to the end of this month, or of the month of its newest row.
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

-- Invalid responses with the reason. Grain: one response. `bytes` is its whole size, `body` its beginning.
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
create index if not exists quarantine_ingested on raw.quarantine (ingested_at);

-- Runs of the ingestion, in two tables because it may only append. Grain: one run; one without an end was interrupted.
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

-- Exclusions and their revocations, appended by `homelab pipeline exclude` and `include`. Grain: one of either.
create table if not exists raw.exclusion_entries (
    id bigint generated always as identity primary key,
    revokes bigint unique references raw.exclusion_entries (id),
    city text,
    first timestamptz,
    until timestamptz,
    reason text not null,
    excluded_by text not null,
    created_at timestamptz not null default now(),
    inserted_xid xid8 not null default pg_current_xact_id(),
    constraint exclusion_entries_kind check (
        case when revokes is null then first < until else coalesce(city, first::text, until::text) is null end
    )
);
-- Exclusions of observations: first <= observation time < until, of one city or of all (null), until they are revoked.
-- `inserted_xid` is the newest transaction that changed the exclusion. Grain: one exclusion.
create or replace view raw.exclusions as
select
    entry.id,
    entry.city,
    entry.first,
    entry.until,
    entry.reason,
    entry.excluded_by,
    entry.created_at,
    revocation.created_at as revoked_at,
    coalesce(revocation.inserted_xid, entry.inserted_xid) as inserted_xid,
    revocation.excluded_by as revoked_by
from raw.exclusion_entries as entry
left join raw.exclusion_entries as revocation on revocation.revokes = entry.id
where entry.revokes is null;

-- Months of `ingested_at` (UTC) whose rows the retention has dropped. A missing row of any other month was deleted.
create table if not exists raw.dropped_months (
    month date primary key,
    dropped_at timestamptz not null default now()
);

-- Months whose rows are in object storage instead: `url` is their Parquet file, with the number and the checksum
-- (see upkeep.checksum) of its rows. They are in raw.dropped_months, too.
create table if not exists raw.archived_months (
    month date primary key,
    url text not null,
    rows bigint not null,
    checksum numeric not null,
    archived_at timestamptz not null default now()
);

-- The retention has dropped the runs that started before this time. A missing later run was deleted. At most one row.
create table if not exists raw.dropped_runs (
    one boolean primary key default true check (one),
    dropped_before timestamptz not null
);

-- The schedule of the ingestion, from each change on, and the settings of each city that was ever configured.
create table if not exists raw.schedules (
    valid_from timestamptz primary key,
    schedule text not null
);
create table if not exists raw.city_settings (
    city text primary key,
    timezone text
);

-- The newest reading of each city that was ever configured, unless it is excluded. It is not judged: the models replace
-- implausible values with null. A number whose conversion could overflow or underflow is null or 0: its error would
-- hide all cities. The index finds the reading in each partition; a time before September 2001, which has fewer digits,
-- would be in the wrong order. Grain: one city.
create or replace view raw.weather_now as
select
    known.city,
    coalesce(newest.data ->> 'source', 'openweather') as source,
    to_timestamp((newest.data ->> 'dt')::bigint) as observation_timestamp,
    newest.ingested_at,
    converted.fahrenheit as temperature_f,
    (converted.fahrenheit - 32) / 1.8 as temperature_c,
    given.humidity as humidity_pct,
    given.pressure as pressure_hpa,
    converted.wind_speed as wind_speed_ms,
    given.direction as wind_direction_deg,
    converted.wind_gust as wind_gust_ms,
    newest.data -> 'weather' -> 0 ->> 'description' as weather_description
from raw.city_settings as known
cross join lateral (
    select stored.data, stored.units, stored.ingested_at
    from raw.weather_observations as stored
    where stored.city = known.city and length(stored.data ->> 'dt') = 10
        and not exists (
            select from raw.exclusions as excluded
            where excluded.revoked_at is null
                and (excluded.city is null or excluded.city = stored.city)
                and to_timestamp((stored.data ->> 'dt')::bigint) >= excluded.first
                and to_timestamp((stored.data ->> 'dt')::bigint) < excluded.until
        )
    order by (stored.data ->> 'dt') collate "C" desc, stored.revision desc
    limit 1
) as newest
cross join lateral (
    select
        round(jsonb_path_query_first(newest.data, '$.main.temp ? (@ > -1e9 && @ < 1e9)')::numeric, 9)::double precision
            as temperature,
        round(jsonb_path_query_first(newest.data, '$.main.humidity ? (@ > -1e9 && @ < 1e9)')::numeric, 9)::double precision
            as humidity,
        round(jsonb_path_query_first(newest.data, '$.main.pressure ? (@ > -1e9 && @ < 1e9)')::numeric, 9)::double precision
            as pressure,
        round(jsonb_path_query_first(newest.data, '$.wind.deg ? (@ > -1e9 && @ < 1e9)')::numeric, 9)::double precision
            as direction,
        round(jsonb_path_query_first(newest.data, '$.wind.speed ? (@ > -1e9 && @ < 1e9)')::numeric, 9)::double precision
            as speed,
        round(jsonb_path_query_first(newest.data, '$.wind.gust ? (@ > -1e9 && @ < 1e9)')::numeric, 9)::double precision
            as gust,
        case when newest.units = 'imperial' then 0.44704 else 1 end as speed_unit
) as given
cross join lateral (
    select
        case newest.units
            when 'imperial' then given.temperature
            when 'metric' then given.temperature * 1.8 + 32
            when 'standard' then (given.temperature - 273.15) * 1.8 + 32
        end as fahrenheit,
        given.speed * given.speed_unit as wind_speed,
        given.gust * given.speed_unit as wind_gust
) as converted;

-- Whole months of observations to keep; 0, or no row: all of them.
create table if not exists upkeep.retention (
    one boolean primary key default true check (one),
    months int not null check (months >= 0)
);

-- Whole months of observations to keep before they move to object storage; 0, or no row: nothing moves.
create table if not exists upkeep.archive_policy (
    one boolean primary key default true check (one),
    months int not null check (months >= 0)
);

-- The time of the last call of upkeep.partitions(), and since when the clock has made no jump between two calls: more
-- than a month ahead, or more than an hour back. The first call counts as no jump. At most one row.
create table if not exists upkeep.clock (
    one boolean primary key default true check (one),
    seen timestamptz not null,
    steady_since timestamptz not null
);

-- Return true if the clock has been steady for a week. Until then nothing is deleted by age: the clock can be wrong.
create or replace function upkeep.clock_is_steady() returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $clock_is_steady$
    select exists (
        select from upkeep.clock as c
        where c.seen between now() - interval '1 month' and now() + interval '1 hour'
            and c.steady_since <= now() - interval '1 week'
    )
$clock_is_steady$;

-- Create the partitions of this month and of the next three. If the clock is steady, drop those past the retention, and
-- record their months. Quarantine and runs are kept for two years, or for the retention if that is shorter. The
-- ingestion calls it before it writes. It runs as its owner and takes no arguments, so the caller decides nothing.
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
    lock table upkeep.partition_lock in exclusive mode;
    insert into upkeep.clock as known (seen, steady_since) values (now(), '-infinity')
    on conflict (one) do update set
        seen = excluded.seen,
        steady_since = case
            when known.seen between now() - interval '1 month' and now() + interval '1 hour' then known.steady_since
            else now()
        end;
    for ahead in 0..3 loop
        month := date_trunc('month', now()) + make_interval(months => ahead);
        -- Later months can exist without the earlier ones: the clock was ahead.
        continue when exists (
            select from upkeep.bounds as b where b.since < month + interval '1 month' and b.upto > month
        );
        name := to_char(month, '"weather_observations_"YYYY_MM');
        -- Attaching it afterwards does not lock out readers and writers.
        execute format('create table raw.%I (like raw.weather_observations including defaults '
                       'including constraints including compression)', name);
        execute format('alter table raw.weather_observations attach partition raw.%I for values from (%L) to (%L)',
                       name, month, month + interval '1 month');
    end loop;
    if not upkeep.clock_is_steady() then
        return;
    end if;
    oldest := date_trunc('month', now()) - make_interval(months => coalesce(nullif(least(kept, 24), 0), 24));
    delete from raw.quarantine where ingested_at < oldest;
    delete from raw.ingestion_ends where finished < oldest;
    delete from raw.ingestion_starts where started < oldest;
    insert into raw.dropped_runs as known (dropped_before) values (oldest)
    on conflict (one) do update set dropped_before = excluded.dropped_before
    where known.dropped_before < excluded.dropped_before;
    if kept = 0 then
        return;
    end if;
    oldest := date_trunc('month', now()) - make_interval(months => kept);
    begin
        for name, upto in select b.name, b.upto from upkeep.bounds as b where b.upto <= oldest loop
            execute format('select coalesce(date_trunc(''month'', min(ingested_at)), %L) from raw.%I',
                           upto - interval '1 month', name) into month;
            insert into raw.dropped_months (month)
            select dropped::date from generate_series(month, upto - interval '1 day', interval '1 month') as dropped
            on conflict do nothing;
            execute format('drop table raw.%I', name);
        end loop;
    exception when lock_not_available then
        raise warning 'a reader holds a month that is past the retention: the next run drops it';
    end;
end
$partitions$;

-- The number of rows of a month, and a checksum of their content: the sum of 60 bits of each row's MD5. scripts/archive.py
-- computes the same from the Parquet file.
create or replace function upkeep.month_checksum(month date, out rows bigint, out checksum numeric)
language sql stable
set timezone = 'UTC'
set search_path = pg_catalog, pg_temp
as $month_checksum$
    select count(*), coalesce(sum(('x' || left(md5(concat_ws('|', w.id, w.city,
        (extract(epoch from w.ingested_at) * 1000000)::bigint, coalesce(w.units, ''), w.revision, w.inserted_xid,
        w.data)), 15))::bit(60)::bigint), 0)
    from raw.weather_observations as w
    where w.ingested_at >= month and w.ingested_at < month + interval '1 month'
$month_checksum$;

-- Remove the rows of a month whose copy in object storage has this number and checksum, and record the copy. Raises an
-- error if the month is not due, the clock not steady, or the rows others: the caller cannot remove a month before its
-- time.
create or replace function upkeep.archive(month date, url text, rows bigint, checksum numeric) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set lock_timeout = '10s'
set client_min_messages = warning
as $archive$
declare
    kept int := coalesce((select p.months from upkeep.archive_policy as p), 0);
    following timestamptz := archive.month + interval '1 month';
    found record;
    part text;
    has_others boolean;
begin
    if kept = 0 or not upkeep.clock_is_steady() or archive.month <> date_trunc('month', archive.month)
        or following > date_trunc('month', now()) - make_interval(months => kept) then
        raise exception 'the month % is not due to be archived', archive.month;
    end if;
    lock table upkeep.partition_lock in exclusive mode;
    lock table raw.weather_observations in access exclusive mode;
    select * into found from upkeep.month_checksum(archive.month);
    if found.rows is distinct from archive.rows or found.checksum is distinct from archive.checksum then
        raise exception 'the rows of % are not those of its copy', archive.month;
    end if;
    insert into raw.dropped_months (month) values (archive.month) on conflict do nothing;
    insert into raw.archived_months (month, url, rows, checksum)
    values (archive.month, archive.url, archive.rows, archive.checksum);
    select b.name into part from upkeep.bounds as b where b.upto = following;
    if part is not null then
        execute format('select exists (select from raw.%I where ingested_at < %L)', part, archive.month) into has_others;
    end if;
    if part is null or has_others then  -- the months of an older table are in one partition
        delete from raw.weather_observations as w where w.ingested_at >= archive.month and w.ingested_at < following;
    else
        execute format('drop table raw.%I', part);
    end if;
end
$archive$;

-- Forget the copy of a month, and create its partition: the caller inserts its rows in the same transaction.
create or replace function upkeep.unarchive(month date) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set lock_timeout = '10s'
set client_min_messages = warning
as $unarchive$
begin
    if coalesce((select p.months from upkeep.archive_policy as p), 0) > 0 then
        raise exception 'the months would be archived again';
    end if;
    lock table upkeep.partition_lock in exclusive mode;
    delete from raw.archived_months as a where a.month = unarchive.month;
    if not found then
        raise exception 'the month % is not archived', unarchive.month;
    end if;
    delete from raw.dropped_months as d where d.month = unarchive.month;
    begin
        execute format('create table raw.%I partition of raw.weather_observations for values from (%L) to (%L)',
                       to_char(unarchive.month, '"weather_observations_"YYYY_MM'), unarchive.month,
                       unarchive.month + interval '1 month');
    exception when invalid_object_definition then  -- the partition of an older table has this month
        null;
    end;
end
$unarchive$;

-- Record the schedule if it is not the last one, and the time zones of the configured cities where they differ. Cities
-- that are no longer configured keep theirs.
create or replace function upkeep.record_settings(schedule text, cities text[], timezones text[]) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_hashjoin = on
as $record_settings$
begin
    lock table raw.schedules in share row exclusive mode;
    insert into raw.schedules (valid_from, schedule)
    select greatest(now(), last.valid_from + interval '1 microsecond'), record_settings.schedule
    from (select 1) as one
    left join (select * from raw.schedules order by valid_from desc limit 1) as last on true
    where last.schedule is distinct from record_settings.schedule;

    insert into raw.city_settings as known (city, timezone)
    select distinct on (given.city) given.city, given.timezone
    from unnest(cities, timezones) as given (city, timezone)
    where not exists (
        select from raw.city_settings as same
        where same.city = given.city and same.timezone is not distinct from given.timezone
    )
    on conflict (city) do update set timezone = excluded.timezone;
end
$record_settings$;

-- The partitions and their bounds: since <= ingested_at < upto.
create or replace view upkeep.bounds as
select
    child.relname::text as name,
    substring(bound.text from $$TO \('([^']+)'\)$$)::timestamptz as upto,
    case
        when bound.text like '%FROM (MINVALUE)%' then '-infinity'
        else substring(bound.text from $$FROM \('([^']+)'\)$$)::timestamptz
    end as since
from pg_inherits
join pg_class as child on child.oid = pg_inherits.inhrelid
cross join lateral (select pg_get_expr(child.relpartbound, child.oid) as text) as bound
where pg_inherits.inhparent = 'raw.weather_observations'::regclass;

revoke all on function upkeep.partitions() from public;
revoke all on function upkeep.clock_is_steady() from public;
revoke all on function upkeep.record_settings(text, text[], text[]) from public;
revoke all on function upkeep.month_checksum(date) from public;
revoke all on function upkeep.archive(date, text, bigint, numeric) from public;
revoke all on function upkeep.unarchive(date) from public;
select upkeep.partitions();
commit;
-- Serves increments by inserted_xid. After the transaction, because it reads an older table once: meanwhile readers
-- continue, and writers wait.
create index if not exists weather_observations_inserted on raw.weather_observations (inserted_xid);
