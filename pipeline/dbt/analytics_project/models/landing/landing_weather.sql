{{ config(materialized='incremental', incremental_strategy='append') }}

{% set since = watermark('ingested_at') %}

select
    id,
    city,
    ingested_at,
    {{ from_unix_time('try_cast(dt as bigint)') }} as observation_timestamp,
    try_cast(temperature as double) as temperature,
    try_cast(humidity as double) as humidity,
    try_cast(pressure as double) as pressure,
    description,
    try_cast(wind_speed as double) as wind_speed,
    coalesce(units, '{{ units() }}') as units
from {{ raw_observations(source('raw', 'weather_observations'), since) }} as pulled
{% if is_incremental() %}
-- The overlap brings some back that are here already.
where not exists (
    select 1 from {{ this }} as landed
    where landed.id = pulled.id {% if since %}and landed.ingested_at > '{{ since }}'{% endif %}
)
{% endif %}
