{{ config(materialized='view') }}

with changed as (
    select city, observation_timestamp from {{ ref('changed_observations').include(database=false) }}
    where observation_timestamp is not null
),

assigned as (
    {{ nearest_scheduled_time('changed') }}
)

select distinct city, {{ utc_date('scheduled_at') }} as scheduled_date from assigned
