{# The observations that a mart has to sum up, with their `period` (an hour or a day, by the macro of that name) beside
   them: all of them, or those of each city's periods into which something new has come. Each (city,
   observation_timestamp) counts once, as it was last told. #}
{% macro observations_of(staging, period) -%}
    {% set since = watermark('last_ingested_at') %}
    {% set new = staging ~ " where ingested_at > '" ~ since ~ "'" %}
    select * from (
    select *, {{ period('observation_timestamp') }} as period,
        row_number() over (partition by city, observation_timestamp order by ingested_at desc, id desc) as recency
    from {{ staging }}
    {% if since %}
    -- Bounds that are literals, so that only the blocks with these times are read.
    where observation_timestamp >= {{ bound(period('min(observation_timestamp)'), new) }}
    and observation_timestamp < {{ bound(period('max(observation_timestamp)') ~ " + interval '1 day'", new) }}
    and (city, {{ period('observation_timestamp') }}) in (
        select distinct city, {{ period('observation_timestamp') }} from {{ new }}
    )
    {% endif %}
    ) as told
    where recency = 1
{%- endmacro %}

{% macro bound(value, relation) -%}
    cast('{{ looked_up("coalesce(" ~ value ~ ", 'infinity')", relation) }}' as timestamp with time zone)
{%- endmacro %}
