select
    id,
    city,
    ingested_at,
    observation_timestamp,
    {{ to_fahrenheit('temperature', 'units') }} as temperature_f,
    humidity as humidity_pct,
    pressure as pressure_hpa,
    description as weather_description,
    {{ to_mph('wind_speed', 'units') }} as wind_speed_mph,
    condition_code,
    {{ to_fahrenheit('feels_like', 'units') }} as feels_like_f,
    wind_direction as wind_direction_deg,
    {{ to_mph('wind_gust', 'units') }} as wind_gust_mph,
    clouds as cloudiness_pct,
    visibility as visibility_m,
    -- OpenWeather omits these without precipitation.
    coalesce(rain, 0) as rain_1h_mm,
    coalesce(snow, 0) as snow_1h_mm,
    sunrise as sunrise_at,
    sunset as sunset_at,
    utc_offset as utc_offset_s,
    latitude as latitude_deg,
    longitude as longitude_deg,
    country as country_code,
    place_id,
    place as place_name
-- Without the database's name, which differs in the published copy.
from {{ ref('landing_weather').include(database=false) }}
