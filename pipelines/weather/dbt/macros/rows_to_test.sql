{# Return the rows of a relation that the tests must check: those that this build has changed. The model's
   `meta: {test_increment_by: COLUMN}` selects them: `landed_in` the rows of the builds since the last complete one, a
   period the rows from the first changed period on, so that a new row is checked together with an existing one that it
   may duplicate. All rows are checked in the first build, after a full refresh, and once a week. A node with
   `test_increment_by: full_test` is checked only then, by the selection in scripts/dbt_build.py. #}
{% macro rows_to_test(relation) -%}
    {% set column = test_increment_by(relation) %}
    {% if column in (none, 'full_test') or build_plan('full_test') != 'false' %}{{ return(relation) }}{% endif %}
    {{ return("(select * from " ~ relation ~ " where " ~ not_before(column, first_value_to_test(column)) ~ ")") }}
{%- endmacro %}

{# Return the first value of the column that must be checked, as text. The relations are upstream of every tested model;
   `ref` would be a dependency of every test. #}
{% macro first_value_to_test(column) -%}
    {% set through = build_plan('built_through') %}
    {% if column == 'landed_in' %}{{ return(through | int + 1) }}{% endif %}
    {% set changed = {
        'observation_hour': 'changed_hours',
        'observation_date': 'changed_days',
        'observation_timestamp': 'landing_weather where landed_in > ' ~ through,
    }[column] %}
    {{ return(query_scalar(or_infinity("min(" ~ column ~ ")"), "landing." ~ changed)) }}
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
