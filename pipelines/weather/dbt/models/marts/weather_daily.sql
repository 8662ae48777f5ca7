{{ config(unique_key=['city', 'observation_date'], order_by='(observation_date, city)',
          settings={'allow_nullable_key': 1}) }}

{% set changed = ref('changed_days') %}
{% set span = changed_span(changed, 'observation_date') %}
-- A local day begins at most 14 hours before the UTC day, and ends at most 12 hours after it.
{% set margin = 0 if days() == 'utc' else 15 %}
{% set at = 'observation_timestamp' %}
{% set in_days = within_span(at, span, margin ~ ' hours', (24 + margin) ~ ' hours', 'date') %}
{% set in_intervals = within_span(at, span, (3 + margin) ~ ' hours', (27 + margin) ~ ' hours', 'date') %}

with observations as (
    select *, date_trunc('hour', {{ utc(at) }}) as utc_hour
    from {{ ref('stg_weather') }}
    where {{ in_days }} and observation_date is not null
    {% if span %}
    and (city, observation_date) in (select city, observation_date from {{ changed }})
    {% endif %}
),

intervals as (
    {{ precipitation_intervals(in_intervals ~ ' and observation_date is not null') }}
),

-- An interval of at most three hours is in one day, or in two.
dated as (
    select
        *,
        cast({{ local_time("ended - interval '1 microsecond'", 'city_timezone', 'utc_offset_s') }} as date) as last_date
    from intervals
),

split as (
    select *, {{ start_of_day('last_date', 'city_timezone', 'utc_offset_s') }} as last_date_begins
    from dated
),

parts as (
    select *, last_date as observation_date, last_date_begins as begins, ended as ends from split
    union all
    select
        *,
        last_date - 1 as observation_date,
        ended - interval '4 hours' as begins,
        {{ smallest('last_date_begins', 'ended') }} as ends
    from split
    where {{ smallest('rain_from', 'snow_from') }} < last_date_begins
),

precipitation as (
    select
        city,
        observation_date,
        {{ day_zone('any_value(city_timezone)', newest('utc_offset_s', 'ended')) }} as zone,
        {{ precipitation_sums('begins', 'ends') }}
    from parts
    group by city, observation_date
),

hours as (
    select
        city,
        observation_date,
        utc_hour,
        avg(temperature_f) as temperature_f,
        avg(dew_point_f) as dew_point_f,
        avg(humidity_pct) as humidity_pct,
        avg(pressure_hpa) as pressure_hpa,
        avg(wind_speed_mph) as wind_speed_mph,
        {{ wind_components() }},
        avg(cloudiness_pct) as cloudiness_pct
    from observations
    group by city, observation_date, utc_hour
),

-- A mean of the day is that of its hours: an hour with many observations weighs as much as any other.
means as (
    select
        city,
        observation_date,
        count(*) as hours_observed,
        count(temperature_f) as temperature_hours_observed,
        count(wind_speed_mph) as wind_hours_observed,
        avg(temperature_f) as temperature_mean_f,
        avg(dew_point_f) as dew_point_mean_f,
        avg(humidity_pct) as humidity_mean_pct,
        avg(pressure_hpa) as pressure_mean_hpa,
        avg(wind_speed_mph) as wind_speed_mean_mph,
        avg(wind_east) as wind_east,
        avg(wind_north) as wind_north,
        avg(cloudiness_pct) as cloudiness_mean_pct
    from hours
    group by city, observation_date
),

with_gaps as (
    select
        *,
        {{ seconds_between(
            'lag(' ~ nullable('observation_timestamp') ~ ') over (partition by city, observation_date order by observation_timestamp)',
            'observation_timestamp'
        ) }} as gap_s
    from observations
),

days as (
    select
        city,
        observation_date,
        {{ newest('day_zone', 'observation_timestamp') }} as day_zone,
        count(*) as observations,
        min(temperature_f) as temperature_min_f,
        max(temperature_f) as temperature_max_f,
        min(feels_like_f) as feels_like_min_f,
        max(feels_like_f) as feels_like_max_f,
        max(wind_speed_mph) as wind_speed_max_mph,
        max(wind_gust_mph) as wind_gust_max_mph,
        min(observation_timestamp) as first_observation_at,
        max(observation_timestamp) as last_observation_at,
        max(gap_s) / 3600 as longest_gap_h,
        max(ingested_at) as last_ingested_at
    from with_gaps
    group by city, observation_date
),

combined as (
    select
        *,
        coalesce(days.day_zone, precipitation.zone) as zone_of_day,
        {{ largest('days.last_ingested_at', 'precipitation.last_ingested_at') }} as newest_ingested_at
    from days
    full join means using (city, observation_date)
    full join precipitation using (city, observation_date)
    where days.observations is not null or rain_mm > 0 or snow_mm > 0
)

select
    city,
    observation_date,
    zone_of_day as day_zone,
    coalesce(observations, 0) as observations,
    temperature_min_f,
    {{ fahrenheit_to_celsius('temperature_min_f') }} as temperature_min_c,
    temperature_mean_f,
    {{ fahrenheit_to_celsius('temperature_mean_f') }} as temperature_mean_c,
    temperature_max_f,
    {{ fahrenheit_to_celsius('temperature_max_f') }} as temperature_max_c,
    feels_like_min_f,
    {{ fahrenheit_to_celsius('feels_like_min_f') }} as feels_like_min_c,
    feels_like_max_f,
    {{ fahrenheit_to_celsius('feels_like_max_f') }} as feels_like_max_c,
    dew_point_mean_f,
    {{ fahrenheit_to_celsius('dew_point_mean_f') }} as dew_point_mean_c,
    humidity_mean_pct,
    pressure_mean_hpa,
    wind_speed_mean_mph,
    {{ mph_to_ms('wind_speed_mean_mph') }} as wind_speed_mean_ms,
    wind_speed_max_mph,
    {{ mph_to_ms('wind_speed_max_mph') }} as wind_speed_max_ms,
    wind_gust_max_mph,
    {{ mph_to_ms('wind_gust_max_mph') }} as wind_gust_max_ms,
    {{ direction_of('wind_east', 'wind_north') }} as wind_direction_mean_deg,
    cloudiness_mean_pct,
    rain_mm,
    coalesce(rain_covered_h, 0) as rain_covered_h,
    snow_mm,
    coalesce(snow_covered_h, 0) as snow_covered_h,
    -- As the weather services define them: from the mean of the day's extremes.
    {% for name, sign in (('heating', -1), ('cooling', 1)) %}
    {% set mean_f = "(temperature_min_f + temperature_max_f) / 2" %}
    {% set degrees_f = "greatest(" ~ sign ~ " * (" ~ mean_f ~ " - " ~ var('degree_day_base_f') ~ "), 0)" %}
    case when temperature_min_f is not null then {{ degrees_f }} end as {{ name }}_degree_days_f,
    case when temperature_min_f is not null then {{ degrees_f }} / 1.8 end as {{ name }}_degree_days_c,
    {% endfor %}
    coalesce(hours_observed, 0) as hours_observed,
    coalesce(temperature_hours_observed, 0) as temperature_hours_observed,
    coalesce(wind_hours_observed, 0) as wind_hours_observed,
    {{ boolean_of('coalesce(hours_observed, 0) >= ' ~ var('enough_hours_of_a_day')) }} as is_observed_enough,
    longest_gap_h,
    first_observation_at,
    last_observation_at,
    newest_ingested_at as last_ingested_at
from combined
{% if span %}
where (city, observation_date) in (select city, observation_date from {{ changed }})
{% endif %}
order by observation_date, city
