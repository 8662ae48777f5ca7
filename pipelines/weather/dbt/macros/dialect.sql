{# Expressions that the targets write differently; clickhouse.sql and snowflake.sql have the variants of the others. #}

{# A constant time, in UTC. #}
{% macro instant(time) -%} {{ return(adapter.dispatch('instant')(time)) }} {%- endmacro %}
{% macro duckdb__instant(time) -%} timestamp with time zone '{{ time }}+00' {%- endmacro %}

{# A time that query_scalar has returned as text. #}
{% macro instant_of(text) -%} {{ return(adapter.dispatch('instant_of')(text)) }} {%- endmacro %}
{% macro duckdb__instant_of(text) -%} timestamp with time zone '{{ text }}' {%- endmacro %}

{# A text or a time as a time. #}
{% macro as_instant(value) -%} {{ return(adapter.dispatch('as_instant')(value)) }} {%- endmacro %}
{% macro duckdb__as_instant(value) -%} cast({{ value }} as timestamp with time zone) {%- endmacro %}

{# A period that changed_span has returned as text, moved by an interval: `sign` is `+ ` or `- `. #}
{% macro moved(text, sign, interval, periods) -%}
    {{ return(adapter.dispatch('moved')(text, sign, interval, periods)) }}
{%- endmacro %}
{% macro duckdb__moved(text, sign, interval, periods) -%}
(cast('{{ text }}' as {{ periods }}) {{ sign }}interval '{{ interval }}'){{ " at time zone 'UTC'" if periods == 'date' }}
{%- endmacro %}

{# The value as text, or `infinity` for null. #}
{% macro or_infinity(value) -%} {{ return(adapter.dispatch('or_infinity')(value)) }} {%- endmacro %}
{% macro duckdb__or_infinity(value) -%} coalesce({{ value }}, 'infinity') {%- endmacro %}

{# A condition: the column is not before a value that or_infinity has returned. #}
{% macro not_before(column, value) -%} {{ return(adapter.dispatch('not_before')(column, value)) }} {%- endmacro %}
{% macro duckdb__not_before(column, value) -%} {{ column }} >= '{{ value }}' {%- endmacro %}

{# Null of a type: `varchar`, `integer` or `double`. #}
{% macro null_of(kind) -%} {{ return(adapter.dispatch('null_of')(kind)) }} {%- endmacro %}
{% macro duckdb__null_of(kind) -%} cast(null as {{ kind }}) {%- endmacro %}

{# A value of a type that has null: of another one, `lag` and `lead` return a default in ClickHouse. #}
{% macro nullable(value) -%} {{ return(adapter.dispatch('nullable')(value)) }} {%- endmacro %}
{% macro duckdb__nullable(value) -%} {{ value }} {%- endmacro %}

{# A number of rows, or of one row, as `bigint`. #}
{% macro bigint_of(number) -%} {{ return(adapter.dispatch('bigint_of')(number)) }} {%- endmacro %}
{% macro duckdb__bigint_of(number) -%} {{ number }} {%- endmacro %}

{# The unique key of a snapshot. #}
{% macro snapshot_key(columns) -%} {{ return(adapter.dispatch('snapshot_key')(columns)) }} {%- endmacro %}
{% macro duckdb__snapshot_key(columns) -%} {{ return(columns) }} {%- endmacro %}

{# A condition as a column. #}
{% macro boolean_of(condition) -%} {{ return(adapter.dispatch('boolean_of')(condition)) }} {%- endmacro %}
{% macro duckdb__boolean_of(condition) -%} {{ condition }} {%- endmacro %}

{# True if the condition holds for a row of the group or window. #}
{% macro any_true(condition) -%} {{ return(adapter.dispatch('any_true')(condition)) }} {%- endmacro %}
{% macro duckdb__any_true(condition) -%} bool_or({{ condition }}) {%- endmacro %}

{# Columns as one value, to compare them; null is a value, too. #}
{% macro row_of(columns) -%} {{ return(adapter.dispatch('row_of')(columns)) }} {%- endmacro %}
{% macro duckdb__row_of(columns) -%} row({{ columns | join(', ') }}) {%- endmacro %}

{# Round half away from zero. #}
{% macro rounded(value, digits) -%} {{ return(adapter.dispatch('rounded')(value, digits)) }} {%- endmacro %}
{% macro duckdb__rounded(value, digits) -%} round({{ value }}, {{ digits }}) {%- endmacro %}

{# The seconds between two times, as an integer. #}
{% macro rounded_seconds(first, last) -%} {{ return(adapter.dispatch('rounded_seconds')(first, last)) }} {%- endmacro %}
{% macro duckdb__rounded_seconds(first, last) -%} cast({{ seconds_between(first, last) }} as bigint) {%- endmacro %}

{# A time, moved back by a number of hours that is a column. #}
{% macro hours_before(time, number) -%} {{ return(adapter.dispatch('hours_before')(time, number)) }} {%- endmacro %}
{% macro duckdb__hours_before(time, number) -%} {{ time }} - to_hours({{ number }}) {%- endmacro %}

{# The last value before the row that is not null. #}
{% macro previous_value(value, window) -%} {{ return(adapter.dispatch('previous_value')(value, window)) }} {%- endmacro %}
{% macro duckdb__previous_value(value, window) -%} lag({{ value }} ignore nulls) over ({{ window }}) {%- endmacro %}

{# The last of the times up to an interval after the row's own one. #}
{% macro last_within(time, interval) -%} {{ return(adapter.dispatch('last_within')(time, interval)) }} {%- endmacro %}
{% macro duckdb__last_within(time, interval) -%}
max({{ time }}) over (
            order by {{ time }}
            range between current row and interval '{{ interval }}' following
        )
{%- endmacro %}

{# An aggregate of the rows for which a condition holds. #}
{% macro filtered(function, value, condition) -%}
    {{ return(adapter.dispatch('filtered')(function, value, condition)) }}
{%- endmacro %}
{% macro duckdb__filtered(function, value, condition) -%}
{{ function }}({{ value }}) filter (where {{ condition }})
{%- endmacro %}

{# The largest and the smallest value that is not null. #}
{% macro largest() -%} {{ return(adapter.dispatch('largest')(varargs)) }} {%- endmacro %}
{% macro duckdb__largest(values) -%} greatest({{ values | join(', ') }}) {%- endmacro %}
{% macro smallest() -%} {{ return(adapter.dispatch('smallest')(varargs)) }} {%- endmacro %}
{% macro duckdb__smallest(values) -%} least({{ values | join(', ') }}) {%- endmacro %}

{# The end of a `from` clause whose query calls each_time with the same arguments. #}
{% macro each_time_source(first, last, step) -%}
    {{ return(adapter.dispatch('each_time_source')(first, last, step)) }}
{%- endmacro %}
{% macro duckdb__each_time_source(first, last, step) -%} {%- endmacro %}

{# A number with a fraction, from which binary numbers are computed. #}
{% macro fractional(number) -%} {{ return(adapter.dispatch('fractional')(number)) }} {%- endmacro %}
{% macro duckdb__fractional(number) -%} {{ number }} {%- endmacro %}

{# The text of a range of plausible values. #}
{% macro range_text(low, high) -%} {{ return(adapter.dispatch('range_text')(low, high)) }} {%- endmacro %}
{% macro duckdb__range_text(low, high) -%}
printf('not between %g and %g', cast({{ low }} as double), cast({{ high }} as double))
{%- endmacro %}

{# Delete the periods of an increment from its model. #}
{% macro delete_changed(target, changed, key) -%}
    {{ return(adapter.dispatch('delete_changed')(target, changed, key)) }}
{%- endmacro %}
{% macro duckdb__delete_changed(target, changed, key) -%}
    delete from {{ target }} as present using {{ changed }} as changed
    where {% for column in key %}present.{{ column }} = changed.{{ column }}{{ " and " if not loop.last }}{% endfor %}
{%- endmacro %}
