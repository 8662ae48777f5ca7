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

{# The units of rows that do not say theirs: they were stored before rows did. #}
{% macro units() -%}
    {% set said = var('units', env_var('OPENWEATHER_UNITS', 'imperial')) %}
    {% if said not in ('standard', 'metric', 'imperial') %}
        {{ exceptions.raise_compiler_error("OPENWEATHER_UNITS cannot be " ~ said) }}
    {% endif %}
    {{ return(said) }}
{%- endmacro %}
