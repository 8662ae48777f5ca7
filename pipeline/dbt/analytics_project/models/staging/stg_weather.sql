select
    id,
    city,
    ingested_at,
    observation_timestamp,
    {{ to_fahrenheit('temperature', 'units') }} as temperature_f,
    humidity as humidity_pct,
    pressure as pressure_hpa,
    description as weather_description,
    {{ to_mph('wind_speed', 'units') }} as wind_speed_mph
-- Without the database's name, which is another one in the published copy.
from {{ ref('landing_weather').include(database=false) }}
