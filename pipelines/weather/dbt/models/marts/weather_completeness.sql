{{ config(materialized='view') }}

with built as (
    {{ build_and_last_time() }}
),

-- A city is expected from its first scheduled time with an observation on, until it is inactive.
observed as (
    select
        parts.city,
        parts.observation_date,
        parts.city_timezone,
        parts.utc_offset_s,
        parts.observations,
        case
            when parts.last_scheduled_at <= built.built_at then {{ length_of('parts.scheduled_times') }}
            else {{ length_of('parts.scheduled_times', until='built.built_at') }}
        end as times_observed,
        first.number as first_number,
        {{ smallest(
            'last.last_active_number',
            'built.last_number',
            'lead(' ~ nullable('first.number') ~ ') over (partition by parts.city order by first.number) - 1'
        ) }} as last_number
    from {{ ref('observed_times').include(database=false) }} as parts
    inner join {{ ref('scheduled_times').include(database=false) }} as first
        on parts.first_scheduled_at = first.scheduled_at
    inner join {{ ref('scheduled_times').include(database=false) }} as last
        on parts.last_scheduled_at = last.scheduled_at
    cross join built
),

{% set days_of_span = (
    'cast(observed.observation_date as timestamp)',
    "date_trunc('day', " ~ local_time(utc('last.scheduled_at'), 'city_timezone', 'utc_offset_s') ~ ")",
    '1 day'
) %}
-- A missing time has the zone of the observation before it.
spans as (
    select
        observed.city,
        observed.city_timezone,
        observed.utc_offset_s,
        observed.first_number,
        observed.last_number,
        cast({{ each_time(*days_of_span) }} as date) as observation_date
    from observed
    inner join {{ ref('scheduled_times').include(database=false) }} as last
        on observed.last_number = last.number
    {{ each_time_source(*days_of_span) }}
    where observed.last_number >= observed.first_number
),

days as (
    select distinct
        city_timezone,
        utc_offset_s,
        observation_date,
        {{ start_of_day('observation_date', 'city_timezone', 'utc_offset_s') }} as begins,
        {{ start_of_day('(observation_date + 1)', 'city_timezone', 'utc_offset_s') }} as ends
    from spans
),

{{ times_of_days('days', 'days_with_times') }},

expected as (
    select
        spans.city,
        spans.observation_date,
        {{ newest(day_zone('spans.city_timezone', 'spans.utc_offset_s'), 'spans.first_number') }} as day_zone,
        sum(least(spans.last_number, days.last_number) - greatest(spans.first_number, days.first_number) + 1)
            as times_expected
    from spans
    inner join days_with_times as days
        on spans.observation_date = days.observation_date
        and spans.city_timezone is not distinct from days.city_timezone
        and spans.utc_offset_s is not distinct from days.utc_offset_s
    group by spans.city, spans.observation_date
),

observed_days as (
    select city, observation_date, sum(times_observed) as times_observed, sum(observations) as observations
    from observed
    group by city, observation_date
)

select
    expected.city,
    expected.observation_date,
    expected.day_zone,
    cast(expected.times_expected as bigint) as times_expected,
    cast(coalesce(observed_days.times_observed, 0) as bigint) as times_observed,
    cast(expected.times_expected - coalesce(observed_days.times_observed, 0) as bigint) as times_missing,
    {{ fractional('100.0') }} * coalesce(observed_days.times_observed, 0) / expected.times_expected as complete_pct,
    cast(coalesce(observed_days.observations, 0) as bigint) as observations
from expected
left join observed_days using (city, observation_date)
where expected.times_expected > 0
