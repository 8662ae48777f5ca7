{# A number that came as text, as `double`, `integer` or `bigint`; null if it is none. #}
{% macro number_of(text, kind) -%}
    {{ return(adapter.dispatch('number_of')(text, kind)) }}
{%- endmacro %}
{% macro duckdb__number_of(text, kind) -%} try_cast({{ text }} as {{ kind }}) {%- endmacro %}
