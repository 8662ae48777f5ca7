{# Days and hours are in UTC, independent of the session's time zone. #}
{% macro from_unix_time(seconds) -%}
    {{ return(adapter.dispatch('from_unix_time')(seconds)) }}
{%- endmacro %}
{% macro duckdb__from_unix_time(seconds) -%} try(to_timestamp({{ seconds }})) {%- endmacro %}

{% macro utc_date(time) -%}
    {{ return(adapter.dispatch('utc_date')(time)) }}
{%- endmacro %}
{% macro duckdb__utc_date(time) -%} cast(({{ time }}) at time zone 'UTC' as date) {%- endmacro %}

{% macro utc_hour(time) -%}
    {{ return(adapter.dispatch('utc_hour')(time)) }}
{%- endmacro %}
{% macro duckdb__utc_hour(time) -%} date_trunc('hour', ({{ time }}) at time zone 'UTC') at time zone 'UTC' {%- endmacro %}

{# The start of a day as a timestamp. #}
{% macro utc_midnight(date) -%}
    {{ return(adapter.dispatch('utc_midnight')(date)) }}
{%- endmacro %}
{% macro duckdb__utc_midnight(date) -%} cast({{ date }} as timestamp) at time zone 'UTC' {%- endmacro %}

{# One row per day from `first` to `last`, both inclusive. #}
{% macro each_day(first, last) -%}
    {{ return(adapter.dispatch('each_day')(first, last)) }}
{%- endmacro %}
{% macro duckdb__each_day(first, last) -%}
    cast(unnest(generate_series(cast({{ first }} as timestamp), cast({{ last }} as timestamp), interval '1 day')) as date)
{%- endmacro %}

{# The length of an interval in hours. #}
{% macro hours_of(interval) -%}
    {{ return(adapter.dispatch('hours_of')(interval)) }}
{%- endmacro %}
{% macro duckdb__hours_of(interval) -%} extract(epoch from {{ interval }}) / 3600 {%- endmacro %}

{# The value in the row with the newest `time`. #}
{% macro newest(value, time) -%}
    {{ return(adapter.dispatch('newest')(value, time)) }}
{%- endmacro %}
{% macro duckdb__newest(value, time) -%} arg_max({{ value }}, {{ time }}) {%- endmacro %}
