{# Assign each observation to the nearest scheduled time; a tie to the later one. #}
{% macro nearest_scheduled_time(observations, columns=[]) -%}
    select
        observed.city,
        {% for column in columns %}
        observed.{{ column }},
        {% endfor %}
        case
            when {{ seconds_between('observed.observation_timestamp', 'times.next_scheduled_at') }}
                <= {{ seconds_between('times.scheduled_at', 'observed.observation_timestamp') }} then times.next_scheduled_at
            else times.scheduled_at
        end as scheduled_at
    {{ observed_and_times(observations) }}
{%- endmacro %}

{# The `from` clause: each observation as `observed` with the last of the `times` that is not after it. #}
{% macro observed_and_times(observations) -%} {{ return(adapter.dispatch('observed_and_times')(observations)) }} {%- endmacro %}
{% macro duckdb__observed_and_times(observations) -%}
    from {{ observations }} as observed
    asof inner join {{ ref('scheduled_times').include(database=false) }} as times
        on observed.observation_timestamp >= times.scheduled_at
{%- endmacro %}

{# The common table expression `name`: the days with the numbers of their first and last scheduled time. #}
{% macro times_of_days(days, name) -%}
    {{ return(adapter.dispatch('times_of_days')(days, name)) }}
{%- endmacro %}
{% macro duckdb__times_of_days(days, name) -%}
{{ name }} as (
    select
        days.city_timezone,
        days.utc_offset_s,
        days.observation_date,
        first.number as first_number,
        last.number as last_number
    from {{ days }} as days
    asof inner join {{ ref('scheduled_times').include(database=false) }} as first
        on days.begins <= {{ utc('first.scheduled_at') }}
    asof inner join {{ ref('scheduled_times').include(database=false) }} as last
        on days.ends > {{ utc('last.scheduled_at') }}
)
{%- endmacro %}

{# Select the time of the build with the number of the last scheduled time before it. #}
{% macro build_and_last_time() -%}
    {{ return(adapter.dispatch('build_and_last_time')()) }}
{%- endmacro %}
{% macro duckdb__build_and_last_time() -%}
select build_info.built_at, max(times.number) as last_number
    from {{ ref('build_info').include(database=false) }} as build_info
    left join {{ ref('scheduled_times').include(database=false) }} as times on build_info.built_at >= times.scheduled_at
    group by build_info.built_at
{%- endmacro %}
