{{ config(unique_key=['city', 'observation_hour'], order_by='(observation_hour, city)',
          settings={'allow_nullable_key': 1}) }}

{% set changed = ref('changed_hours') %}
{% set span = changed_span(changed, 'observation_hour') %}
{% set hour_of = utc_hour('observation_timestamp') %}

with observations as (
    select *, {{ hour_of }} as observation_hour
    from {{ ref('stg_weather') }}
    where {{ within_span('observation_timestamp', span, after='1 hour') }}
    {% if span %}
    and (city, {{ hour_of }}) in (select city, observation_hour from {{ changed }})
    {% endif %}
),

intervals as (
    {{ precipitation_intervals(within_span('observation_timestamp', span, before='3 hours', after='4 hours')) }}
),

{% set hours_of_interval = (
    "date_trunc('hour', " ~ smallest('rain_from', 'snow_from') ~ ")",
    "date_trunc('hour', ended - interval '1 microsecond')",
    '1 hour'
) %}
parts as (
    select intervals.*, {{ each_time(*hours_of_interval) }} as hour
    from intervals {{ each_time_source(*hours_of_interval) }}
),

precipitation as (
    select
        city,
        {{ from_utc('hour') }} as observation_hour,
        {{ precipitation_sums('hour', "hour + interval '1 hour'") }}
    from parts
    group by city, hour
),

hours as (
    select
        city,
        observation_hour,
        count(*) as observations,
        avg(temperature_f) as temperature_mean_f,
        avg(feels_like_f) as feels_like_mean_f,
        avg(dew_point_f) as dew_point_mean_f,
        avg(humidity_pct) as humidity_mean_pct,
        avg(pressure_hpa) as pressure_mean_hpa,
        avg(wind_speed_mph) as wind_speed_mean_mph,
        max(wind_gust_mph) as wind_gust_max_mph,
        {{ wind_components() }},
        avg(cloudiness_pct) as cloudiness_mean_pct,
        min(visibility_m) as visibility_min_m,
        {{ newest('weather_description', 'observation_timestamp') }} as weather_description,
        {{ newest('condition_code', 'observation_timestamp') }} as condition_code,
        max(ingested_at) as last_ingested_at
    from observations
    group by city, observation_hour
),

combined as (
    select
        *,
        {{ largest('hours.last_ingested_at', 'precipitation.last_ingested_at') }} as newest_ingested_at
    from hours
    full join precipitation using (city, observation_hour)
    -- Rain can fall in an hour without an observation; a dry hour without one has no row.
    where hours.observations is not null or rain_mm > 0 or snow_mm > 0
)

select
    city,
    observation_hour,
    coalesce(observations, 0) as observations,
    temperature_mean_f,
    {{ fahrenheit_to_celsius('temperature_mean_f') }} as temperature_mean_c,
    feels_like_mean_f,
    {{ fahrenheit_to_celsius('feels_like_mean_f') }} as feels_like_mean_c,
    dew_point_mean_f,
    {{ fahrenheit_to_celsius('dew_point_mean_f') }} as dew_point_mean_c,
    humidity_mean_pct,
    pressure_mean_hpa,
    wind_speed_mean_mph,
    {{ mph_to_ms('wind_speed_mean_mph') }} as wind_speed_mean_ms,
    wind_gust_max_mph,
    {{ mph_to_ms('wind_gust_max_mph') }} as wind_gust_max_ms,
    {{ direction_of('wind_east', 'wind_north') }} as wind_direction_mean_deg,
    cloudiness_mean_pct,
    visibility_min_m,
    rain_mm,
    coalesce(rain_covered_h, 0) as rain_covered_h,
    snow_mm,
    coalesce(snow_covered_h, 0) as snow_covered_h,
    weather_description,
    condition_code,
    newest_ingested_at as last_ingested_at
from combined
{% if span %}
where (city, observation_hour) in (select city, observation_hour from {{ changed }})
{% endif %}
-- Sorted, so that a period is in few blocks and reads skip the others.
order by observation_hour, city
