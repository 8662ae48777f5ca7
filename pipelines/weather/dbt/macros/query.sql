{# Bounds are queried first and written into the main query as literals: only then can PostgreSQL's index and DuckDB's
   zone maps use them. A subquery would read the whole history every hour. #}

{# Return a query's single value as text; none for null, without rows, and while dbt parses. #}
{% macro query_scalar(value, relation) -%}
    {% if not execute %}{{ return(none) }}{% endif %}
    {% set rows = run_query("select cast(" ~ value ~ " as varchar) as value from " ~ relation).rows %}
    {{ return(rows[0][0] if rows else none) }}
{%- endmacro %}

{# Return a column of the build's plan as text, which scripts/source_state.py writes before dbt runs; none without it:
   then everything is read. #}
{% macro build_plan(column) -%}
    {% if not execute %}{{ return(none) }}{% endif %}
    {% set plan = adapter.get_relation(database=target.database, schema='landing', identifier='source_state') %}
    {{ return(query_scalar(column, plan) if plan else none) }}
{%- endmacro %}
