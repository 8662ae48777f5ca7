{{ config(unique_key=['city', 'observation_hour']) }}

with observations as (
    {{ observations_of(ref('stg_weather'), utc_hour) }}
)

select
    city,
    period as observation_hour,
    count(*) as observations,
    avg(temperature_f) as temperature_mean_f,
    avg(humidity_pct) as humidity_mean_pct,
    avg(pressure_hpa) as pressure_mean_hpa,
    avg(wind_speed_mph) as wind_speed_mean_mph,
    arg_max(weather_description, observation_timestamp) as weather_description,
    max(ingested_at) as last_ingested_at
from observations
group by city, period
