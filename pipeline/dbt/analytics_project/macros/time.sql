{# Days and hours are those of UTC, whatever the session's time zone. #}
{% macro from_unix_time(seconds) -%}
    {{ return(adapter.dispatch('from_unix_time')(seconds)) }}
{%- endmacro %}
{% macro duckdb__from_unix_time(seconds) -%} try(to_timestamp({{ seconds }})) {%- endmacro %}

{% macro utc_date(time) -%}
    {{ return(adapter.dispatch('utc_date')(time)) }}
{%- endmacro %}
{% macro duckdb__utc_date(time) -%} cast({{ time }} at time zone 'UTC' as date) {%- endmacro %}

{% macro utc_hour(time) -%}
    {{ return(adapter.dispatch('utc_hour')(time)) }}
{%- endmacro %}
{% macro duckdb__utc_hour(time) -%} date_trunc('hour', {{ time }} at time zone 'UTC') at time zone 'UTC' {%- endmacro %}
