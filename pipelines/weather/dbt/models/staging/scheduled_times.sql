{{ config(materialized='table') }}

{% set build = build_plan('build') %}
{% set schedule, schedule_source = source('build', 'schedule'), source('build', 'schedule_source') %}
with observed as (
    select
        date_trunc('hour', {{ utc('min(observation_timestamp)') }}) - interval '1 hour' as first_at,
        date_trunc('hour', {{ utc('max(observation_timestamp)') }}) + interval '2 hours' as last_at
    from {{ ref('landing_weather') }}
    where observation_timestamp > {{ instant('1979-01-01 00:00:00') }}
),

-- Before the first recorded schedule, every hour counts.
hourly as (
    select
        first_at,
        {{ smallest(
            largest('last_at', utc('built_at') ~ " + interval '2 hours'"),
            '(select ' ~ utc('min(hourly_before)') ~ ' from ' ~ schedule_source ~ ") - interval '1 microsecond'"
                if build else 'null'
        ) }} as last_at
    from observed
    cross join {{ ref('build_info') }} as build_info
),

times as (
    select {{ each_time('first_at', 'last_at', '1 hour') }} as time
    from hourly {{ each_time_source('first_at', 'last_at', '1 hour') }}
    {% if build %}
    union all
    select {{ utc('scheduled_at') }} as time from {{ schedule }}
    {% endif %}
),

numbered as (
    select
        time,
        {{ bigint_of('row_number() over (order by time)') }} as number,
        lead({{ nullable('time') }}) over (order by time) as next_time,
        lead({{ nullable('time') }}, 3) over (order by time) as third_time,
        -- With an ASOF join instead, DuckDB may compare each time with every other: 120,000 in thirteen years.
        {{ last_within('time', var('inactive_after')) }} as last_within
    from times
)

select
    {{ from_utc('numbered.time') }} as scheduled_at,
    {{ from_utc('numbered.next_time') }} as next_scheduled_at,
    cast(numbered.time as date) as scheduled_date,
    numbered.number,
    -- A city is inactive after this long, and after three times, without an observation.
    active.number as last_active_number
from numbered
inner join numbered as active on active.time = {{ largest('numbered.last_within', 'numbered.third_time') }}
order by numbered.time
