{# Read the raw observations ingested after `since` (a timestamp as text; none reads all), with the JSON fields as text
   columns. #}
{% macro raw_observations(source, since) -%}
    {{ return(adapter.dispatch('raw_observations')(source, since)) }}
{%- endmacro %}

{# The path of each field in OpenWeather's response: https://openweathermap.org/current #}
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

{# PostgreSQL runs the query: its index finds the new rows, and only these fields are transferred. Through the attached
   table DuckDB would read every row. #}
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

{# Return the `ingested_at` of the oldest remaining raw row as text; none without rows. #}
{% macro oldest_raw(source) -%}
    {{ return(adapter.dispatch('oldest_raw')(source)) }}
{%- endmacro %}
{% macro duckdb__oldest_raw(source) -%}
    {{ return(query_scalar("min(oldest)", "postgres_query('" ~ source.database ~ "', 'select min(ingested_at) as oldest from "
                           ~ source.include(database=false) ~ "')")) }}
{%- endmacro %}

{# Read the ingestion's runs that started after `since`, or all. #}
{% macro raw_runs(source, since) -%}
    {{ return(adapter.dispatch('raw_runs')(source, since)) }}
{%- endmacro %}
{% macro duckdb__raw_runs(source, since) -%}
postgres_query('{{ source.database }}', $sql$
        select * from {{ source.include(database=false) }} {% if since %}where started > '{{ since }}'{% endif %}
    $sql$)
{%- endmacro %}
