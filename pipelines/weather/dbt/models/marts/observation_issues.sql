{{ config(materialized='view') }}

with suspects as (
    select *
    from {{ ref('landing_weather').include(database=false) }}
    where has_issue
),

-- A newer revision corrects an issue, and an exclusion settles it.
present as (
    select * from suspects
    where not exists (
        select 1 from {{ ref('landing_weather').include(database=false) }} as newer
        where newer.city = suspects.city
            and newer.observation_timestamp = suspects.observation_timestamp
            and (newer.revision > suspects.revision or (newer.revision = suspects.revision and newer.id > suspects.id))
    )
    and not exists (
        select 1 from {{ ref('landing_exclusions').include(database=false) }} as excluded
        where excluded.is_active
            and (excluded.city is null or excluded.city = suspects.city)
            and suspects.observation_timestamp >= excluded.first
            and suspects.observation_timestamp < excluded.until
    )
),

issues as (
    select
        city,
        observation_timestamp,
        'observation_timestamp' as column_name,
        {{ null_of('double') }} as value,
        'no time, or one before 1979: the observation is left out' as reason,
        id,
        ingested_at
    from present
    where coalesce(observation_timestamp <= {{ instant('1979-01-01 00:00:00') }}, true)
    {% for name, value, low, high in measurements() %}
    union all
    select
        city,
        observation_timestamp,
        '{{ name }}' as column_name,
        cast({{ value }} as double) as value,
        {{ range_text(low, high) }} as reason,
        id,
        ingested_at
    from present
    where {{ value }} not between {{ low }} and {{ high }}
    {% endfor %}
    {% for gauge in ('rain', 'snow') %}
    union all
    select
        city,
        observation_timestamp,
        '{{ gauge }}_mm' as column_name,
        {{ null_of('double') }} as value,
        'no known window: the response has neither 1h nor 3h' as reason,
        id,
        ingested_at
    from present
    where {{ gauge }}_window_h is null
    {% endfor %}
    {% if days() == 'local' %}
    union all
    select
        city,
        observation_timestamp,
        'observation_date' as column_name,
        {{ null_of('double') }} as value,
        'no local day: the city has neither a timezone in the inventory nor an offset in the response' as reason,
        id,
        ingested_at
    from {{ ref('stg_weather').include(database=false) }}
    where observation_date is null
    {% endif %}
)

select city, observation_timestamp, column_name, value, reason, id as raw_id, ingested_at from issues
