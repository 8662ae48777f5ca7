{# OpenWeather's units: standard is kelvin and m/s, metric °C and m/s, imperial °F and mph. #}
{% macro to_fahrenheit(value, units) -%}
case {{ units }}
        when 'imperial' then {{ value }}
        when 'metric' then {{ value }} * 1.8 + 32
        when 'standard' then ({{ value }} - 273.15) * 1.8 + 32
    end
{%- endmacro %}

{% macro to_mph(value, units) -%}
case {{ units }}
        when 'imperial' then {{ value }}
        when 'metric' then {{ value }} / 0.44704
        when 'standard' then {{ value }} / 0.44704
    end
{%- endmacro %}

{# The units of rows without their own, which were stored before the column existed. #}
{% macro units() -%}
    {% set units = var('units', env_var('OPENWEATHER_UNITS', 'imperial')) %}
    {% if units not in ('standard', 'metric', 'imperial') %}
        {{ exceptions.raise_compiler_error("OPENWEATHER_UNITS must be standard, metric or imperial, not " ~ units) }}
    {% endif %}
    {{ return(units) }}
{%- endmacro %}
