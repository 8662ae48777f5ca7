{{ config(unique_key=['city', 'observation_date']) }}

with observations as (
    {{ observations_of(ref('stg_weather'), utc_date) }}
)

select
    city,
    period as observation_date,
    count(*) as observations,
    min(temperature_f) as temperature_min_f,
    avg(temperature_f) as temperature_mean_f,
    max(temperature_f) as temperature_max_f,
    avg(humidity_pct) as humidity_mean_pct,
    avg(pressure_hpa) as pressure_mean_hpa,
    avg(wind_speed_mph) as wind_speed_mean_mph,
    max(wind_speed_mph) as wind_speed_max_mph,
    max(ingested_at) as last_ingested_at
from observations
group by city, period
