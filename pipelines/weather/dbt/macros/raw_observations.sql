{# Read raw observations, with the JSON fields as text columns: those of the transactions from `since` on, and those of
   these months (of `ingested_at`); all without `since`, including the archived ones in the files of WEATHER_ARCHIVED. #}
{% macro raw_observations(source, since, months) -%}
    {{ return(adapter.dispatch('raw_observations')(source, since, months)) }}
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
   table DuckDB would read every row.
   OpenWeather omits rain and snow without precipitation: an absent or empty field is 0 mm, a null one unknown. One with
   other windows than `1h` and `3h` is unknown, too; its window is null. #}
{% macro duckdb__raw_observations(source, since, months) -%}
{% set archived = '' if since else env_var('WEATHER_ARCHIVED', '') %}
{% if archived %}(from {% endif -%}
postgres_query('{{ source.database }}', $sql$
        select
            id,
            city,
            ingested_at,
            units,
            revision,
            inserted_xid::text::bigint as inserted_xid
            {%- for name, path in raw_fields().items() %},
            data #>> '{{ '{' ~ path ~ '}' }}' as {{ name }}
            {%- endfor %}
            {%- for gauge in ('rain', 'snow') %},
            case
                when data #> '{{ '{' ~ gauge ~ ',1h}' }}' is not null then data #>> '{{ '{' ~ gauge ~ ',1h}' }}'
                when data #> '{{ '{' ~ gauge ~ ',3h}' }}' is not null then data #>> '{{ '{' ~ gauge ~ ',3h}' }}'
                when data -> '{{ gauge }}' is null or data -> '{{ gauge }}' = '{}' then '0'
            end as {{ gauge }},
            case
                when data #> '{{ '{' ~ gauge ~ ',1h}' }}' is not null then 1
                when data #> '{{ '{' ~ gauge ~ ',3h}' }}' is not null then 3
                when data -> '{{ gauge }}' is null or data -> '{{ gauge }}' in ('{}', 'null') then 1
            end as {{ gauge }}_window_h
            {%- endfor %}
        from {{ source.include(database=false) }}
        {% if since %}
        where inserted_xid >= '{{ since }}'
        {%- for month in months %}
            or (ingested_at >= '{{ month }} 00:00:00+00' and ingested_at < timestamptz '{{ month }} 00:00:00+00' + interval '1 month')
        {%- endfor %}
        {% endif %}
    $sql$)
{%- if archived %}
    union all by name {{ archived_observations(archived) }}
)
{%- endif %}
{%- endmacro %}

{# Read raw observations from Parquet files with the same columns. A JSON pointer is PostgreSQL's path: its parts are keys
   or indexes. #}
{% macro archived_observations(files) -%}
        select
            id,
            city,
            ingested_at,
            units,
            revision,
            inserted_xid
            {%- for name, path in raw_fields().items() %},
            data ->> '/{{ path | replace(',', '/') }}' as {{ name }}
            {%- endfor %}
            {%- for gauge in ('rain', 'snow') %}
            {%- set is_empty = "json_type(data, '/" ~ gauge ~ "') = 'OBJECT' and (data ->> '/" ~ gauge ~ "') = '{}'" %},
            case
                when json_exists(data, '/{{ gauge }}/1h') then data ->> '/{{ gauge }}/1h'
                when json_exists(data, '/{{ gauge }}/3h') then data ->> '/{{ gauge }}/3h'
                when not json_exists(data, '/{{ gauge }}') or ({{ is_empty }}) then '0'
            end as {{ gauge }},
            case
                when json_exists(data, '/{{ gauge }}/1h') then 1
                when json_exists(data, '/{{ gauge }}/3h') then 3
                when not json_exists(data, '/{{ gauge }}') or json_type(data, '/{{ gauge }}') = 'NULL' or ({{ is_empty }}) then 1
            end as {{ gauge }}_window_h
            {%- endfor %}
        from read_parquet('{{ files }}')
{%- endmacro %}

{# Read a small raw table or view completely. #}
{% macro raw_table(source, columns) -%}
    {{ return(adapter.dispatch('raw_table')(source, columns)) }}
{%- endmacro %}
{% macro duckdb__raw_table(source, columns) -%}
postgres_query('{{ source.database }}', $sql$ select {{ columns | join(', ') }} from {{ source.include(database=false) }} $sql$)
{%- endmacro %}
