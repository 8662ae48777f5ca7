{# Watermarks are read beforehand and written into the queries as literals: an index of Postgres can use these, and so
   can DuckDB's zone maps. With a subquery in their place all of the history would be read each hour. #}

{# The single value of a query, as text; none if it is null, and while dbt parses. #}
{% macro looked_up(value, relation) -%}
    {% if not execute %}{{ return(none) }}{% endif %}
    {{ return(run_query("select cast(" ~ value ~ " as varchar) as found from " ~ relation).rows[0][0]) }}
{%- endmacro %}

{# The newest `column` of what this model holds, less the overlap; none before the first row. #}
{% macro watermark(column, overlap=var('overlap')) -%}
    {% if not (execute and is_incremental()) %}{{ return(none) }}{% endif %}
    {{ return(looked_up("max(" ~ column ~ ") - interval '" ~ overlap ~ "'", this)) }}
{%- endmacro %}
