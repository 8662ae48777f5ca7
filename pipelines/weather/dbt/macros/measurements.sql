{# Each measured column of staging: its name, its value from the landed columns, and the range of plausible values. A
   value outside becomes null in staging and is listed in observation_issues.
   World records: https://wmo.asu.edu/content/world-meteorological-organization-global-weather-climate-extremes-archive #}
{% macro measurements() -%}
    {{ return([
        ('temperature_f', to_fahrenheit('temperature', 'units'), -130, 140),
        ('feels_like_f', to_fahrenheit('feels_like', 'units'), -150, 180),
        ('humidity_pct', 'humidity', 0, 100),
        ('pressure_hpa', 'pressure', 850, 1090),
        ('wind_speed_mph', to_mph('wind_speed', 'units'), 0, 260),
        ('wind_gust_mph', to_mph('wind_gust', 'units'), 0, 320),
        ('wind_direction_deg', 'wind_direction', 0, 360),
        ('cloudiness_pct', 'clouds', 0, 100),
        ('visibility_m', 'visibility', 0, 10000),
        ('rain_mm', 'rain', 0, '320 * rain_window_h'),
        ('snow_mm', 'snow', 0, '320 * snow_window_h'),
        ('utc_offset_s', 'utc_offset', -43200, 50400),
        ('latitude_deg', 'latitude', -90, 90),
        ('longitude_deg', 'longitude', -180, 180),
    ]) }}
{%- endmacro %}
