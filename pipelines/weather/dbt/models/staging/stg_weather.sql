-- `include(database=false)`: the published copy has another name than the private file.
with versions as (
    select
        *,
        row_number() over (partition by city, observation_timestamp order by revision desc, id desc) as recency
    from {{ ref('landing_weather').include(database=false) }}
    where observation_timestamp > {{ instant('1979-01-01 00:00:00') }}
),

measured as (
    select
        id,
        city,
        ingested_at,
        revision,
        observation_timestamp,
        {%- for name, value, low, high in measurements() %}
        case when {{ value }} between {{ low }} and {{ high }} then {{ value }} end as {{ name }},
        {%- endfor %}
        rain_window_h,
        snow_window_h,
        condition_code,
        description,
        -- Zero during the polar day and night.
        case when sunrise > {{ instant('1970-01-01 00:00:00') }} then sunrise end as sunrise_at,
        case when sunset > {{ instant('1970-01-01 00:00:00') }} then sunset end as sunset_at,
        country,
        place_id,
        place
    from versions
    where recency = 1
)

select
    measured.id,
    measured.city,
    measured.ingested_at,
    measured.observation_timestamp,
    measured.temperature_f,
    measured.humidity_pct,
    measured.pressure_hpa,
    measured.description as weather_description,
    measured.wind_speed_mph,
    {{ fahrenheit_to_celsius('measured.temperature_f') }} as temperature_c,
    measured.condition_code,
    measured.feels_like_f,
    {{ fahrenheit_to_celsius('measured.feels_like_f') }} as feels_like_c,
    {{ dew_point('measured.temperature_f', 'measured.humidity_pct') }} as dew_point_f,
    {{ fahrenheit_to_celsius('(' ~ dew_point('measured.temperature_f', 'measured.humidity_pct') ~ ')') }}
        as dew_point_c,
    {{ mph_to_ms('measured.wind_speed_mph') }} as wind_speed_ms,
    measured.wind_direction_deg,
    measured.wind_gust_mph,
    {{ mph_to_ms('measured.wind_gust_mph') }} as wind_gust_ms,
    measured.cloudiness_pct,
    measured.visibility_m,
    measured.rain_mm,
    measured.rain_window_h,
    measured.snow_mm,
    measured.snow_window_h,
    measured.sunrise_at,
    measured.sunset_at,
    measured.utc_offset_s,
    {% if days() == 'utc' %}{{ null_of('varchar') }}{% else %}settings.timezone{% endif %} as city_timezone,
    cast({{ local_time(utc('measured.observation_timestamp'), 'settings.timezone', 'measured.utc_offset_s') }} as date)
        as observation_date,
    {{ day_zone('settings.timezone', 'measured.utc_offset_s') }} as day_zone,
    measured.latitude_deg,
    measured.longitude_deg,
    measured.country as country_code,
    measured.place_id,
    measured.place as place_name,
    measured.revision
from measured
{% if days() == 'local' %}
left join {{ ref('landing_city_settings').include(database=false) }} as settings using (city)
{% endif %}
where not exists (
    select 1 from {{ ref('landing_exclusions').include(database=false) }} as excluded
    where excluded.is_active
        and (excluded.city is null or excluded.city = measured.city)
        and measured.observation_timestamp >= excluded.first
        and measured.observation_timestamp < excluded.until
)
