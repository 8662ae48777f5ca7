{# Select weather_daily with `is_running`: the day is not over at the time of the build. #}
{% macro days_with_running() -%}
    select
        days.*,
        days.observation_date >= {{ local_date_of_build() }} as is_running
    from {{ ref('weather_daily').include(database=false) }} as days
    cross join {{ ref('build_info').include(database=false) }} as build_info
{%- endmacro %}

{# The date of the build in the day's zone: UTC, an IANA name, or an offset such as +05:30. #}
{% macro local_date_of_build() -%}
    {% set built_at = utc('build_info.built_at') %}
    {% if days() == 'utc' -%} cast({{ built_at }} as date) {%- else -%}
    cast(case
        when left(days.day_zone, 1) in ('+', '-') then {{ built_at }}
            + to_minutes(cast(left(days.day_zone, 1) || '1' as bigint)
                * (60 * cast(days.day_zone[2:3] as bigint) + cast(days.day_zone[5:6] as bigint)))
        else build_info.built_at at time zone days.day_zone
    end as date)
    {%- endif %}
{%- endmacro %}
