{# The observations that a mart has to sum up, with their `period` beside them: all of them, or those of each city's
   periods into which something new has come. Each (city, observation_timestamp) counts once, as it was last told. #}
{% macro observations_of(staging, period) -%}
    {% set since = watermark('last_ingested_at') %}
    select *, {{ period }} as period
    from {{ staging }}
    {% if since %}
    where (city, {{ period }}) in (
        select distinct city, {{ period }} from {{ staging }} where ingested_at > '{{ since }}'
    )
    {% endif %}
    qualify row_number() over (partition by city, observation_timestamp order by id desc) = 1
{%- endmacro %}
