{# Select the observations that a mart aggregates, with their `period` (an hour or a day: `period` is the macro). A full
   build takes all; an incremental one takes each (city, period) that has new rows. Each (city, observation_timestamp)
   counts once, in its last ingested version. #}
{% macro observations_of(staging, period) -%}
    {% set since = watermark('last_ingested_at') %}
    {% set new = staging ~ " where ingested_at > '" ~ since ~ "'" %}
    select * from (
    select *, {{ period('observation_timestamp') }} as period,
        row_number() over (partition by city, observation_timestamp order by ingested_at desc, id desc) as recency
    from {{ staging }}
    {% if since %}
    -- Literal bounds, so that DuckDB reads only the blocks with these times.
    where observation_timestamp >= {{ literal_time(period('min(observation_timestamp)'), new) }}
    and observation_timestamp < {{ literal_time(period('max(observation_timestamp)') ~ " + interval '1 day'", new) }}
    and (city, {{ period('observation_timestamp') }}) in (
        select distinct city, {{ period('observation_timestamp') }} from {{ new }}
    )
    {% endif %}
    ) as versions
    where recency = 1
{%- endmacro %}

{# Query a time and write it as a literal; infinity if there is none. #}
{% macro literal_time(value, relation) -%}
    cast('{{ query_scalar("coalesce(" ~ value ~ ", 'infinity')", relation) }}' as timestamp with time zone)
{%- endmacro %}
