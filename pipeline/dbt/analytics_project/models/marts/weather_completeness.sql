{{ config(materialized='view') }}

with cities as (
    select
        city,
        min(first_observation_at) as first_at,
        max(last_observation_at) as last_at
    from {{ ref('weather_daily').include(database=false) }}
    group by city
),

-- A city is expected every hour from its first observation to the newest one of any city, but no longer than
-- `inactive_after` past its own last one.
expected as (
    select
        city,
        {{ utc_hour('first_at') }} as since,
        {{ utc_hour("least(max(last_at) over (), last_at + interval '" ~ var('inactive_after') ~ "')") }}
            + interval '1 hour' as until
    from cities
),

calendar as (
    select city, since, until, {{ each_day(utc_date('since'), utc_date("until - interval '1 hour'")) }} as observation_date
    from expected
),

counted as (
    select
        city,
        observation_date,
        {{ dbt.datediff('greatest(since, ' ~ utc_midnight('observation_date') ~ ')',
                        'least(until, ' ~ utc_midnight('observation_date') ~ " + interval '24 hours')", 'hour') }}
            as hours_expected
    from calendar
)

select
    counted.city,
    counted.observation_date,
    counted.hours_expected,
    coalesce(days.hours_observed, 0) as hours_observed,
    counted.hours_expected - coalesce(days.hours_observed, 0) as hours_missing,
    100.0 * coalesce(days.hours_observed, 0) / counted.hours_expected as complete_pct,
    coalesce(days.observations, 0) as observations,
    days.longest_gap_h
from counted
left join {{ ref('weather_daily').include(database=false) }} as days
    on days.city = counted.city and days.observation_date = counted.observation_date
