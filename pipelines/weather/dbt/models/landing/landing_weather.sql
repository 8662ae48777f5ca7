{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}

{% set raw, dropped_months = source('raw', 'weather_observations'), source('raw', 'dropped_months') %}
{% set since = build_plan('landed_before') if is_incremental() else none %}
{% set again = (build_plan("array_to_string(landed_again, ',')") or '').split(',') | select | list if since else [] %}
{% set measured = ['temperature', 'feels_like', 'humidity', 'pressure', 'wind_speed', 'wind_direction', 'wind_gust',
                   'clouds', 'visibility', 'rain', 'snow', 'latitude', 'longitude'] %}
{% set columns = ['id', 'city', 'ingested_at', 'revision', 'inserted_xid', 'observation_timestamp', 'units'] + measured
                  + ['rain_window_h', 'snow_window_h', 'condition_code', 'description', 'sunrise', 'sunset',
                     'utc_offset', 'country', 'place_id', 'place'] %}
{% set earlier_defaults = {'revision': '0', 'inserted_xid': '0', 'rain_window_h': '1', 'snow_window_h': '1'} %}

with fetched as (
    select
        id,
        city,
        ingested_at,
        revision,
        inserted_xid,
        {{ from_unix_time(number_of('dt', 'bigint')) }} as observation_timestamp,
        coalesce(units, '{{ units() }}') as units,
        {%- for column in measured %}
        {{ number_of(column, 'double') }} as {{ column }},
        {%- endfor %}
        rain_window_h,
        snow_window_h,
        {{ number_of('condition_code', 'integer') }} as condition_code,
        description,
        {{ from_unix_time(number_of('sunrise', 'bigint')) }} as sunrise,
        {{ from_unix_time(number_of('sunset', 'bigint')) }} as sunset,
        {{ number_of('utc_offset', 'integer') }} as utc_offset,
        country,
        {{ number_of('place_id', 'bigint') }} as place_id,
        place
    from {{ raw_observations(raw, since, again) }} as raw_rows
),

landed as (
    select * from fetched
    {% if is_incremental() %}
    -- Rows of transactions that were still running at the previous build are read again.
    where not exists (
        select 1 from {{ this }} as present
        where present.ingested_at = fetched.ingested_at and present.id = fetched.id
        {% if since %}
        and (
            present.inserted_xid >= {{ since }}
            {%- for month in again %}
            or {{ utc_date('present.ingested_at') }} between '{{ month }}' and last_day(date '{{ month }}')
            {%- endfor %}
        )
        {% endif %}
    )
    {% elif execute and load_relation(this) %}
    -- A full refresh keeps the rows of months that the retention has dropped from PostgreSQL; archived ones are read.
    {% set present = adapter.get_columns_in_relation(this) | map(attribute='name') | list %}
    union all
    select
        {%- for column in columns %}
        {{ column if column in present else earlier_defaults.get(column, 'null') ~ ' as ' ~ column }}
            {{- "," if not loop.last }}
        {%- endfor %}
    from {{ this }} as present
    where date_trunc('month', {{ utc_date('ingested_at') }}) in (
        select month from {{ raw_table(dropped_months, ['month']) }} as dropped
    )
    and not exists (
        select 1 from fetched where fetched.ingested_at = present.ingested_at and fetched.id = present.id
    )
    {% endif %}
)

select
    *,
    coalesce(observation_timestamp <= {{ instant('1979-01-01 00:00:00') }}, true)
    {%- for _, value, low, high in measurements() %}
        or coalesce({{ value }} not between {{ low }} and {{ high }}, false)
    {%- endfor %}
        or rain_window_h is null or snow_window_h is null as has_issue,
    cast({{ build_plan('build') or 0 }} as bigint) as landed_in
from landed
order by ingested_at, id
