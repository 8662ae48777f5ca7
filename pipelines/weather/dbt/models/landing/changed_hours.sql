{{ config(materialized='view') }}

-- A reading of rain covers at most the three hours before it.
{% set hours_of_row = (
    "date_trunc('hour', " ~ utc('observation_timestamp') ~ " - interval '3 hours')",
    "date_trunc('hour', " ~ utc('observation_timestamp') ~ ")",
    '1 hour'
) %}
select distinct
    city,
    {{ from_utc(each_time(*hours_of_row)) }} as observation_hour
from {{ ref('changed_observations').include(database=false) }} {{ each_time_source(*hours_of_row) }}
where observation_timestamp is not null
