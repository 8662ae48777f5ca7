{# Expressions that Snowflake writes differently from the other targets; snowflake.sql has its variants. #}

{# An aggregate of the rows for which a condition holds. #}
{% macro filtered(function, value, condition) -%}
    {{ return(adapter.dispatch('filtered')(function, value, condition)) }}
{%- endmacro %}
{% macro default__filtered(function, value, condition) -%}
{{ function }}({{ value }}) filter (where {{ condition }})
{%- endmacro %}

{# The largest and the smallest value that is not null. #}
{% macro largest() -%} {{ return(adapter.dispatch('largest')(varargs)) }} {%- endmacro %}
{% macro default__largest(values) -%} greatest({{ values | join(', ') }}) {%- endmacro %}
{% macro smallest() -%} {{ return(adapter.dispatch('smallest')(varargs)) }} {%- endmacro %}
{% macro default__smallest(values) -%} least({{ values | join(', ') }}) {%- endmacro %}

{# The end of a `from` clause whose query calls each_time with the same arguments. #}
{% macro each_time_source(first, last, step) -%}
    {{ return(adapter.dispatch('each_time_source')(first, last, step)) }}
{%- endmacro %}
{% macro default__each_time_source(first, last, step) -%} {%- endmacro %}

{# A number with a fraction, from which binary numbers are computed. #}
{% macro fractional(number) -%} {{ return(adapter.dispatch('fractional')(number)) }} {%- endmacro %}
{% macro default__fractional(number) -%} {{ number }} {%- endmacro %}

{# The text of a range of plausible values. #}
{% macro range_text(low, high) -%} {{ return(adapter.dispatch('range_text')(low, high)) }} {%- endmacro %}
{% macro default__range_text(low, high) -%}
printf('not between %g and %g', cast({{ low }} as double), cast({{ high }} as double))
{%- endmacro %}

{# Delete the periods of an increment from its model. #}
{% macro delete_changed(target, changed, key) -%}
    {{ return(adapter.dispatch('delete_changed')(target, changed, key)) }}
{%- endmacro %}
{% macro default__delete_changed(target, changed, key) -%}
    delete from {{ target }} as present using {{ changed }} as changed
    where {% for column in key %}present.{{ column }} = changed.{{ column }}{{ " and " if not loop.last }}{% endfor %}
{%- endmacro %}
