{# Intervals are added to times in UTC without a zone: DuckDB adds them to a timestamp with time zone in the session's
   zone, and a published view must not depend on its reader's settings. #}
{% macro from_unix_time(seconds) -%}
    {{ return(adapter.dispatch('from_unix_time')(seconds)) }}
{%- endmacro %}
{% macro duckdb__from_unix_time(seconds) -%} try(to_timestamp({{ seconds }})) {%- endmacro %}

{# A timestamp as UTC without a zone, and back. DuckDB computes `at time zone` with a calendar, also for UTC: twenty times
   as slow. #}
{% macro utc(time) -%}
    {{ return(adapter.dispatch('utc')(time)) }}
{%- endmacro %}
{% macro duckdb__utc(time) -%} make_timestamp(epoch_us({{ time }})) {%- endmacro %}

{% macro from_utc(time) -%}
    {{ return(adapter.dispatch('from_utc')(time)) }}
{%- endmacro %}
{% macro duckdb__from_utc(time) -%} make_timestamptz(epoch_us({{ time }})) {%- endmacro %}

{% macro utc_date(time) -%} cast({{ utc(time) }} as date) {%- endmacro %}

{% macro utc_hour(time) -%} {{ from_utc("date_trunc('hour', " ~ utc(time) ~ ")") }} {%- endmacro %}

{# The setting `days`: utc, or local. #}
{% macro days() -%}
    {% set days = env_var('WEATHER_DAYS', 'utc') %}
    {% if days not in ('utc', 'local') %}
        {{ exceptions.raise_compiler_error("WEATHER_DAYS must be utc or local, not " ~ days) }}
    {% endif %}
    {{ return(days) }}
{%- endmacro %}

{# The zone of an observation's day: UTC, or with `days: local` the city's IANA zone, else the offset in the response. #}
{% macro day_zone(timezone, utc_offset_s) -%}
    {% if days() == 'utc' -%} 'UTC' {%- else -%}
    coalesce({{ timezone }}, printf('%s%02d:%02d', case when {{ utc_offset_s }} < 0 then '-' else '+' end,
        abs({{ utc_offset_s }}) // 3600, abs({{ utc_offset_s }}) % 3600 // 60))
    {%- endif %}
{%- endmacro %}

{# The local time without a zone of a UTC time without a zone; null if the city has neither zone nor offset. #}
{% macro local_time(utc_time, timezone, utc_offset_s) -%}
    {% if days() == 'utc' -%} {{ utc_time }} {%- else -%}
    case
        when {{ timezone }} is not null then {{ from_utc(utc_time) }} at time zone {{ timezone }}
        else ({{ utc_time }}) + to_seconds({{ utc_offset_s }})
    end
    {%- endif %}
{%- endmacro %}

{# The start of a local day, as UTC time without a zone. #}
{% macro start_of_day(date, timezone, utc_offset_s) -%}
    {% if days() == 'utc' -%} cast({{ date }} as timestamp) {%- else -%}
    case
        when {{ timezone }} is not null
            then {{ utc("cast(" ~ date ~ " as timestamp) at time zone " ~ timezone) }}
        else cast({{ date }} as timestamp) - to_seconds({{ utc_offset_s }})
    end
    {%- endif %}
{%- endmacro %}

{# The seconds between two times of the same type. #}
{% macro seconds_between(first, last) -%}
    {{ return(adapter.dispatch('seconds_between')(first, last)) }}
{%- endmacro %}
{% macro duckdb__seconds_between(first, last) -%} (epoch({{ last }}) - epoch({{ first }})) {%- endmacro %}

{# One row for each time from `first` to `last`, both without a zone and included. #}
{% macro each_time(first, last, step) -%}
    {{ return(adapter.dispatch('each_time')(first, last, step)) }}
{%- endmacro %}
{% macro duckdb__each_time(first, last, step) -%}
    unnest(generate_series({{ first }}, {{ last }}, interval '{{ step }}'))
{%- endmacro %}

{# Aggregate the different values to a sorted list. #}
{% macro sorted_list(value) -%}
    {{ return(adapter.dispatch('sorted_list')(value)) }}
{%- endmacro %}
{% macro duckdb__sorted_list(value) -%} list_sort(list_distinct(list({{ value }}))) {%- endmacro %}

{# The number of a list's elements, all or those up to a limit. #}
{% macro length_of(list, until=none) -%}
    {{ return(adapter.dispatch('length_of')(list, until)) }}
{%- endmacro %}
{% macro duckdb__length_of(list, until) -%}
    len({% if until %}list_filter({{ list }}, lambda each: each <= {{ until }}){% else %}{{ list }}{% endif %})
{%- endmacro %}

{# The value in the row with the newest `time`. #}
{% macro newest(value, time) -%}
    {{ return(adapter.dispatch('newest')(value, time)) }}
{%- endmacro %}
{% macro duckdb__newest(value, time) -%} arg_max({{ value }}, {{ time }}) {%- endmacro %}
