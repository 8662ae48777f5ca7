{{ config(materialized='view') }}

with built as (
    select build_info.built_at, max(times.number) as last_number
    from {{ ref('build_info').include(database=false) }} as build_info
    left join {{ ref('scheduled_times').include(database=false) }} as times on times.scheduled_at <= build_info.built_at
    group by build_info.built_at
),

-- A city is expected from its first scheduled time with an observation on, until it is inactive.
observed as (
    select
        days.city,
        days.scheduled_date,
        days.observations,
        case
            when days.last_scheduled_at <= built.built_at then {{ length_of('days.scheduled_times') }}
            else {{ length_of('days.scheduled_times', until='built.built_at') }}
        end as times_observed,
        first.number as first_number,
        least(
            last.last_active_number,
            built.last_number,
            lead(first.number) over (partition by days.city order by days.scheduled_date) - 1
        ) as last_number
    from {{ ref('observed_times').include(database=false) }} as days
    inner join {{ ref('scheduled_times').include(database=false) }} as first
        on first.scheduled_at = days.first_scheduled_at
    inner join {{ ref('scheduled_times').include(database=false) }} as last
        on last.scheduled_at = days.last_scheduled_at
    cross join built
),

dates as (
    select scheduled_date, min(number) as first_number, max(number) as last_number
    from {{ ref('scheduled_times').include(database=false) }}
    group by scheduled_date
),

spans as (
    select
        observed.city,
        observed.first_number,
        observed.last_number,
        {{ each_time(
            'cast(observed.scheduled_date as timestamp)', 'cast(last.scheduled_date as timestamp)', '1 day'
        ) }} as scheduled_date
    from observed
    inner join {{ ref('scheduled_times').include(database=false) }} as last on last.number = observed.last_number
    where observed.last_number >= observed.first_number
),

expected as (
    select
        spans.city,
        dates.scheduled_date,
        sum(least(spans.last_number, dates.last_number) - greatest(spans.first_number, dates.first_number) + 1)
            as times_expected
    from spans
    inner join dates on dates.scheduled_date = cast(spans.scheduled_date as date)
    group by spans.city, dates.scheduled_date
)

select
    expected.city,
    expected.scheduled_date as observation_date,
    cast(expected.times_expected as bigint) as times_expected,
    cast(coalesce(observed.times_observed, 0) as bigint) as times_observed,
    cast(expected.times_expected - coalesce(observed.times_observed, 0) as bigint) as times_missing,
    100.0 * coalesce(observed.times_observed, 0) / expected.times_expected as complete_pct,
    coalesce(observed.observations, 0) as observations
from expected
left join observed using (city, scheduled_date)
