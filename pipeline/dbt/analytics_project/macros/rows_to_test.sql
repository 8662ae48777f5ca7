{# Return the rows of a relation that the tests must check: those added or changed since all tests last passed. The
   model's `meta: {test_increment_by: COLUMN}` selects them: the rows from the column's first new value on. Marts use
   their period, so that a new row is checked together with an existing one that it may duplicate. All rows are checked
   when the test state is unknown: first run, full refresh, once a week. A model with `test_increment_by: full_test` is
   checked only then: a view over a whole mart, with unit tests of its own. #}
{% macro rows_to_test(relation) -%}
    {% set first = first_value_to_test(relation) %}
    {% if first and test_increment_by(relation) == 'full_test' %}{{ return("(select * from " ~ relation ~ " where false)") }}{% endif %}
    {{ return("(select * from " ~ relation ~ " where " ~ test_increment_by(relation) ~ " >= '" ~ first ~ "')" if first else relation) }}
{%- endmacro %}

{# Return the first new value of the relation's `test_increment_by` column as text; none if all rows must be checked. #}
{% macro first_value_to_test(relation) -%}
    {% set column = test_increment_by(relation) %}
    {% set through = tested_through() if column else none %}
    {% if not through or column not in ('observation_hour', 'observation_date') %}{{ return(through) }}{% endif %}
    {{ return(query_scalar("coalesce(min(" ~ column ~ "), 'infinity')", relation ~ " where last_ingested_at > '" ~ through ~ "'")) }}
{%- endmacro %}

{# Return the `ingested_at` up to which all rows are tested, less the lookback, as text; none if unknown.
   scripts/test_state.py writes the table after a successful build. #}
{% macro tested_through() -%}
    {% if not execute %}{{ return(none) }}{% endif %}
    {% set state = adapter.get_relation(database=target.database, schema='landing', identifier='test_state') %}
    {{ return(query_scalar("max(tested_through) - interval '" ~ var('lookback') ~ "'", state) if state else none) }}
{%- endmacro %}

{# Return the model's `meta.test_increment_by`; none without it. #}
{% macro test_increment_by(relation) -%}
    {% if not execute %}{{ return(none) }}{% endif %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' and node.alias == relation.identifier %}
        {{ return(node.config.meta.get('test_increment_by')) }}
    {% endfor %}
    {{ return(none) }}
{%- endmacro %}

{# Override of dbt's macro: the relation that its generic tests query. #}
{% macro get_where_subquery(relation) -%}
    {% set where = config.get('where', '') %}
    {% set rows = rows_to_test(relation) ~ " as rows_to_test" %}
    {{ return("(select * from " ~ rows ~ " where " ~ where ~ ") as filtered" if where else rows) }}
{%- endmacro %}
