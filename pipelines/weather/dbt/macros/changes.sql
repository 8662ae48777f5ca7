{# An increment computes each period (an hour or a day of a city) again that a changed observation belongs to. A change is
   a new row, a removed row, or an exclusion that covers the row. #}

{# Incremental strategy: remove the periods of `meta.changed_periods` and insert their new rows. A period that has lost
   all its observations has no new row. #}
{% macro get_incremental_replace_changed_sql(arg_dict) -%}
    {% set target, columns = arg_dict['target_relation'], arg_dict['dest_columns'] | map(attribute='name') | join(', ') %}
    {% set changed, key = ref(config.get('meta')['changed_periods']), arg_dict['unique_key'] %}
    {{ delete_changed(target, changed, key) }};

    insert into {{ target }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }}
{%- endmacro %}

{# Return the first and the last changed `period` as text, as a pair; none in a full build, or while dbt parses. #}
{% macro changed_span(changed, period) -%}
    {% if not (execute and is_incremental()) %}{{ return(none) }}{% endif %}
    {{ return((query_scalar(or_infinity("min(" ~ period ~ ")"), changed),
               query_scalar(or_infinity("max(" ~ period ~ ")"), changed))) }}
{%- endmacro %}

{# Restrict a timestamp with time zone to a span of periods, which are times or, with `periods='date'`, days in UTC. The
   bare column is compared with literals: only then does DuckDB skip the blocks of other times, also below the window
   function of stg_weather. #}
{% macro within_span(time, span, before='0 hours', after='0 hours', periods='timestamp with time zone') -%}
    {% if span and span[0] == 'infinity' %}false{% elif span -%}
    {{ time }} >= {{ moved(span[0], '- ', before, periods) }}
        {%- if span[1] != 'infinity' %}
        and {{ time }} < {{ moved(span[1], '+ ', after, periods) }}
        {%- endif %}
    {%- else %}true{% endif %}
{%- endmacro %}
