{{ config(materialized='incremental', incremental_strategy='append') }}

{% set raw = source('raw', 'weather_observations') %}
{% set since = watermark('ingested_at') %}
{% set measured = ['temperature', 'feels_like', 'humidity', 'pressure', 'wind_speed', 'wind_direction', 'wind_gust',
                   'clouds', 'visibility', 'rain', 'snow', 'latitude', 'longitude'] %}

select
    id,
    city,
    ingested_at,
    {{ from_unix_time(number_of('dt', 'bigint')) }} as observation_timestamp,
    coalesce(units, '{{ units() }}') as units,
    {%- for column in measured %}
    {{ number_of(column, 'double') }} as {{ column }},
    {%- endfor %}
    {{ number_of('condition_code', 'integer') }} as condition_code,
    description,
    {{ from_unix_time(number_of('sunrise', 'bigint')) }} as sunrise,
    {{ from_unix_time(number_of('sunset', 'bigint')) }} as sunset,
    {{ number_of('utc_offset', 'integer') }} as utc_offset,
    country,
    {{ number_of('place_id', 'bigint') }} as place_id,
    place
from {{ raw_observations(raw, since) }} as fetched

{% if is_incremental() %}
-- The lookback reads some rows again.
{% if since %}
where not exists (
    select 1 from {{ this }} as landed
    where landed.ingested_at > '{{ since }}' and landed.ingested_at = fetched.ingested_at and landed.id = fetched.id
)
{% endif %}
{% elif execute and load_relation(this) %}
-- A full refresh keeps the landed rows that the retention has dropped from PostgreSQL.
{% set oldest = oldest_raw(raw) %}
{% set present = adapter.get_columns_in_relation(this) | map(attribute='name') | list %}
union all
select
    {%- for column in ['id', 'city', 'ingested_at', 'observation_timestamp', 'units'] + measured + [
        'condition_code', 'description', 'sunrise', 'sunset', 'utc_offset', 'country', 'place_id', 'place'] %}
    {{ column if column in present else 'null as ' ~ column }}{{ "," if not loop.last }}
    {%- endfor %}
from {{ this }}
{% if oldest %}where ingested_at < '{{ oldest }}'{% endif %}
{% endif %}
order by ingested_at, id
