{{ config(materialized='incremental', incremental_strategy='append') }}

{% set raw = source('raw', 'weather_observations') %}
{% set since = watermark('ingested_at') %}

select
    id,
    city,
    ingested_at,
    {{ from_unix_time('try_cast(dt as bigint)') }} as observation_timestamp,
    coalesce(units, '{{ units() }}') as units,
    {%- for column in ('temperature', 'feels_like', 'humidity', 'pressure', 'wind_speed', 'wind_direction', 'wind_gust',
                       'clouds', 'visibility', 'rain', 'snow', 'latitude', 'longitude') %}
    try_cast({{ column }} as double) as {{ column }},
    {%- endfor %}
    try_cast(condition_code as integer) as condition_code,
    description,
    {{ from_unix_time('try_cast(sunrise as bigint)') }} as sunrise,
    {{ from_unix_time('try_cast(sunset as bigint)') }} as sunset,
    try_cast(utc_offset as integer) as utc_offset,
    country,
    try_cast(place_id as bigint) as place_id,
    place
from {{ raw_observations(raw, since) }} as pulled

{% if is_incremental() %}
-- The overlap brings some back that are here already.
{% if since %}
where not exists (
    select 1 from {{ this }} as landed
    where landed.ingested_at > '{{ since }}' and landed.ingested_at = pulled.ingested_at and landed.id = pulled.id
)
{% endif %}
{% elif execute and load_relation(this) %}
-- Built anew: what the retention has dropped from Postgres stays as it was landed.
{% set oldest = oldest_raw(raw) %}
{% set wanted = ['id', 'city', 'ingested_at', 'observation_timestamp', 'units'] + (raw_fields().keys() | list) %}
union all by name
select {{ adapter.get_columns_in_relation(this) | map(attribute='name') | select('in', wanted) | reject('eq', 'dt') | join(', ') }}
from {{ this }}
{% if oldest %}where ingested_at < '{{ oldest }}'{% endif %}
{% endif %}
order by ingested_at, id
