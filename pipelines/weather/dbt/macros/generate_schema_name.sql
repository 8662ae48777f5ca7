{# Use the folder's schema as it is, without dbt's prefix (`main_landing`). #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
