{{ config(unique_key=['city', 'observation_hour']) }}

with observations as (
    {{ observations_of(ref('stg_weather'), utc_hour) }}
)

select
    city,
    period as observation_hour,
    count(*) as observations,
    avg(temperature_f) as temperature_mean_f,
    avg(feels_like_f) as feels_like_mean_f,
    avg(humidity_pct) as humidity_mean_pct,
    avg(pressure_hpa) as pressure_mean_hpa,
    avg(wind_speed_mph) as wind_speed_mean_mph,
    max(wind_gust_mph) as wind_gust_max_mph,
    avg(cloudiness_pct) as cloudiness_mean_pct,
    min(visibility_m) as visibility_min_m,
    -- Each observation reports the hour before it: two in one hour report the same rain.
    max(rain_1h_mm) as rain_mm,
    max(snow_1h_mm) as snow_mm,
    {{ newest('weather_description', 'observation_timestamp') }} as weather_description,
    {{ newest('condition_code', 'observation_timestamp') }} as condition_code,
    max(ingested_at) as last_ingested_at
from observations
group by city, period
-- Sorted, so that a period is in few blocks and reads skip the others.
order by period, city
