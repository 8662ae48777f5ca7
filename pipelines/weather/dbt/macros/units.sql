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

{% macro fahrenheit_to_celsius(value) -%} ({{ value }} - 32) / 1.8 {%- endmacro %}

{% macro mph_to_ms(value) -%} {{ value }} * 0.44704 {%- endmacro %}

{# The dew point in °F by Magnus (17.625, 243.04 °C); null if the humidity, divided, is zero. #}
{% macro dew_point(temperature_f, humidity_pct) -%}
    {% set celsius = "((" ~ temperature_f ~ " - 32) / 1.8)" %}
    {% set gamma = "(ln(nullif(" ~ humidity_pct ~ " / 100, 0)) + 17.625 * " ~ celsius ~ " / (243.04 + " ~ celsius ~ "))" %}
    243.04 * {{ gamma }} / (17.625 - {{ gamma }}) * 1.8 + 32
{%- endmacro %}

{# The direction in degrees of a vector with these components (east, north); null if it has no length. #}
{% macro direction_of(east, north) -%}
case
        when sqrt(power({{ east }}, 2) + power({{ north }}, 2)) > 1e-6
            then (degrees(atan2({{ east }}, {{ north }})) + 360) % 360
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

{# The mean of the wind directions' unit vectors; calm has no direction. #}
{% macro wind_components() -%}
    {% set moving = 'wind_speed_mph is distinct from 0' -%}
    {{ filtered('avg', 'sin(radians(wind_direction_deg))', moving) }} as wind_east,
    {{ filtered('avg', 'cos(radians(wind_direction_deg))', moving) }} as wind_north
{%- endmacro %}
