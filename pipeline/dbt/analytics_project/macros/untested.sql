{# What of a relation was not there, or was another, when all tests were last passed. A model whose `meta` names a
   column `tested_by` is looked at from that column's first new value on: a mart by its period, so that a row is seen
   beside the one that it may repeat. All of it is, if nothing is known: the first run, a full refresh, once a week.
   What is tested by `everything` is so only then: a view over all of a mart, with unit tests of its own. #}
{% macro untested(relation) -%}
    {% set first = first_untested(relation) %}
    {% if first and tested_by(relation) == 'everything' %}{{ return("(select * from " ~ relation ~ " where false)") }}{% endif %}
    {{ return("(select * from " ~ relation ~ " where " ~ tested_by(relation) ~ " >= '" ~ first ~ "')" if first else relation) }}
{%- endmacro %}

{# The first new value of the column that the relation is tested by, as text; none for all of them. #}
{% macro first_untested(relation) -%}
    {% set column = tested_by(relation) %}
    {% set through = tested_through() if column else none %}
    {% if not through or column not in ('observation_hour', 'observation_date') %}{{ return(through) }}{% endif %}
    {{ return(looked_up("coalesce(min(" ~ column ~ "), 'infinity')", relation ~ " where last_ingested_at > '" ~ through ~ "'")) }}
{%- endmacro %}

{# Up to which `ingested_at` all is tested, less the overlap, as text; none if that is not known. transform.py writes it
   into landing.tested when a whole build has gone well. #}
{% macro tested_through() -%}
    {% if not execute %}{{ return(none) }}{% endif %}
    {% set tested = adapter.get_relation(database=target.database, schema='landing', identifier='tested') %}
    {{ return(looked_up("max(through) - interval '" ~ var('overlap') ~ "'", tested) if tested else none) }}
{%- endmacro %}

{% macro tested_by(relation) -%}
    {% if not execute %}{{ return(none) }}{% endif %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' and node.alias == relation.identifier %}
        {{ return(node.config.meta.get('tested_by')) }}
    {% endfor %}
    {{ return(none) }}
{%- endmacro %}

{# What dbt's generic tests look at. #}
{% macro get_where_subquery(relation) -%}
    {% set where = config.get('where', '') %}
    {% set seen = untested(relation) ~ " as untested" %}
    {{ return("(select * from " ~ seen ~ " where " ~ where ~ ") as chosen" if where else seen) }}
{%- endmacro %}
