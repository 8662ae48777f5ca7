{# Convert a text to `double`, `integer` or `bigint`; null if it is not a number. #}
{% macro number_of(text, kind) -%}
    {{ return(adapter.dispatch('number_of')(text, kind)) }}
{%- endmacro %}
{% macro duckdb__number_of(text, kind) -%} try_cast({{ text }} as {{ kind }}) {%- endmacro %}
