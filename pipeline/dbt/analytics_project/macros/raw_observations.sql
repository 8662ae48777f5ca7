{# The raw observations ingested after `since` (a timestamp as text, or none for all), their fields taken out of the
   JSON, all of these as text. #}
{% macro raw_observations(source, since) -%}
    {{ return(adapter.dispatch('raw_observations')(source, since)) }}
{%- endmacro %}

{# Where a field stands in OpenWeather's answer: https://openweathermap.org/current #}
{% macro raw_fields() -%}
    {{ return({
        'dt': 'dt',
        'temperature': 'main,temp',
        'feels_like': 'main,feels_like',
        'humidity': 'main,humidity',
        'pressure': 'main,pressure',
        'condition_code': 'weather,0,id',
        'description': 'weather,0,description',
        'wind_speed': 'wind,speed',
        'wind_direction': 'wind,deg',
        'wind_gust': 'wind,gust',
        'clouds': 'clouds,all',
        'visibility': 'visibility',
        'rain': 'rain,1h',
        'snow': 'snow,1h',
        'sunrise': 'sys,sunrise',
        'sunset': 'sys,sunset',
        'utc_offset': 'timezone',
        'latitude': 'coord,lat',
        'longitude': 'coord,lon',
        'country': 'sys,country',
        'place_id': 'id',
        'place': 'name',
    }) }}
{%- endmacro %}

{# Sent to Postgres as it stands: its index finds the new rows, and only the wanted fields travel. Through the attached
   table DuckDB would read all of it. #}
{% macro duckdb__raw_observations(source, since) -%}
postgres_query('{{ source.database }}', $sql$
        select
            id,
            city,
            ingested_at,
            units
            {%- for name, path in raw_fields().items() %},
            data #>> '{{ '{' ~ path ~ '}' }}' as {{ name }}
            {%- endfor %}
        from {{ source.include(database=false) }}
        {% if since %}where ingested_at > '{{ since }}'{% endif %}
    $sql$)
{%- endmacro %}

{# When the oldest raw row that is still there was stored, as text; none if there is none. #}
{% macro oldest_raw(source) -%}
    {{ return(adapter.dispatch('oldest_raw')(source)) }}
{%- endmacro %}
{% macro duckdb__oldest_raw(source) -%}
    {{ return(looked_up("min(oldest)", "postgres_query('" ~ source.database ~ "', 'select min(ingested_at) as oldest from "
                        ~ source.include(database=false) ~ "')")) }}
{%- endmacro %}

{# The ingestion's runs that began after `since`, or all. #}
{% macro raw_runs(source, since) -%}
    {{ return(adapter.dispatch('raw_runs')(source, since)) }}
{%- endmacro %}
{% macro duckdb__raw_runs(source, since) -%}
postgres_query('{{ source.database }}', $sql$
        select * from {{ source.include(database=false) }} {% if since %}where started > '{{ since }}'{% endif %}
    $sql$)
{%- endmacro %}
