{# The raw observations ingested after `since` (a timestamp as text, or none for all), their fields taken out of the
   JSON, all of these as text. #}
{% macro raw_observations(source, since) -%}
    {{ return(adapter.dispatch('raw_observations')(source, since)) }}
{%- endmacro %}

{# Sent to Postgres as it stands: its index finds the new rows, and only the wanted fields travel. Through the attached
   table DuckDB would read all of it. #}
{% macro duckdb__raw_observations(source, since) -%}
postgres_query('{{ source.database }}', $sql$
        select
            id,
            city,
            ingested_at,
            units,
            data ->> 'dt' as dt,
            data -> 'main' ->> 'temp' as temperature,
            data -> 'main' ->> 'humidity' as humidity,
            data -> 'main' ->> 'pressure' as pressure,
            data -> 'weather' -> 0 ->> 'description' as description,
            data -> 'wind' ->> 'speed' as wind_speed
        from {{ source.include(database=false) }}
        {% if since %}where ingested_at > '{{ since }}'{% endif %}
    $sql$)
{%- endmacro %}
