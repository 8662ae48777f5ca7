{{ config(unique_key=['city', 'observation_date']) }}

with observations as (
    {{ observations_of(ref('stg_weather'), utc_date) }}
),

with_gaps as (
    select *, observation_timestamp - lag(observation_timestamp) over (
        partition by city, period order by observation_timestamp
    ) as gap
    from observations
),

-- Two observations in one hour report the same rain.
hours as (
    select city, period, max(rain_1h_mm) as rain_mm, max(snow_1h_mm) as snow_mm
    from observations
    group by city, period, {{ utc_hour('observation_timestamp') }}
),

precipitation as (
    -- Rounded to OpenWeather's precision: the last digits of a sum depend on the order, and would change records.
    select city, period, count(*) as hours_observed, round(sum(rain_mm), 2) as rain_mm, round(sum(snow_mm), 2) as snow_mm
    from hours
    group by city, period
),

days as (
    select
        city,
        period,
        count(*) as observations,
        min(temperature_f) as temperature_min_f,
        avg(temperature_f) as temperature_mean_f,
        max(temperature_f) as temperature_max_f,
        min(feels_like_f) as feels_like_min_f,
        max(feels_like_f) as feels_like_max_f,
        avg(humidity_pct) as humidity_mean_pct,
        avg(pressure_hpa) as pressure_mean_hpa,
        avg(wind_speed_mph) as wind_speed_mean_mph,
        max(wind_speed_mph) as wind_speed_max_mph,
        max(wind_gust_mph) as wind_gust_max_mph,
        avg(cloudiness_pct) as cloudiness_mean_pct,
        min(observation_timestamp) as first_observation_at,
        max(observation_timestamp) as last_observation_at,
        {{ hours_of('max(gap)') }} as longest_gap_h,
        max(ingested_at) as last_ingested_at
    from with_gaps
    group by city, period
)

select
    city,
    period as observation_date,
    observations,
    temperature_min_f,
    temperature_mean_f,
    temperature_max_f,
    feels_like_min_f,
    feels_like_max_f,
    humidity_mean_pct,
    pressure_mean_hpa,
    wind_speed_mean_mph,
    wind_speed_max_mph,
    wind_gust_max_mph,
    cloudiness_mean_pct,
    rain_mm,
    snow_mm,
    -- As the weather services define them: from the mean of the day's extremes.
    case when temperature_min_f is not null then
        greatest({{ var('degree_day_base_f') }} - (temperature_min_f + temperature_max_f) / 2, 0)
    end as heating_degree_days_f,
    case when temperature_min_f is not null then
        greatest((temperature_min_f + temperature_max_f) / 2 - {{ var('degree_day_base_f') }}, 0)
    end as cooling_degree_days_f,
    hours_observed,
    longest_gap_h,
    first_observation_at,
    last_observation_at,
    last_ingested_at
from days
inner join precipitation using (city, period)
order by observation_date, city
