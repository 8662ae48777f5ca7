{# Watermarks are queried first and written into the main query as literals: only then can PostgreSQL's index and
   DuckDB's zone maps use them. A subquery would read the whole history every hour. #}

{# Return a query's single value as text; none for null, and while dbt parses. #}
{% macro query_scalar(value, relation) -%}
    {% if not execute %}{{ return(none) }}{% endif %}
    {{ return(run_query("select cast(" ~ value ~ " as varchar) as value from " ~ relation).rows[0][0]) }}
{%- endmacro %}

{# Return the newest `column` of this model, less the lookback; none before the first row. #}
{% macro watermark(column, lookback=var('lookback')) -%}
    {% if not (execute and is_incremental()) %}{{ return(none) }}{% endif %}
    {{ return(query_scalar("max(" ~ column ~ ") - interval '" ~ lookback ~ "'", this)) }}
{%- endmacro %}
