{{ config(materialized='incremental', incremental_strategy='append') }}

select
    id,
    city,
    ingested_at,
    try_cast(dt as bigint) as dt,
    try_cast(temperature as double) as temperature,
    try_cast(humidity as double) as humidity,
    try_cast(pressure as double) as pressure,
    description,
    try_cast(wind_speed as double) as wind_speed,
    '{{ units() }}' as units
from {{ raw_observations(source('raw', 'weather_observations'), watermark('ingested_at')) }} as pulled
{% if is_incremental() %}
-- The overlap brings some back that are here already.
where not exists (select 1 from {{ this }} as landed where landed.id = pulled.id)
{% endif %}
