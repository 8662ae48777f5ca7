{{ config(materialized='view') }}

-- A reading of rain covers at most the three hours before it.
select distinct
    city,
    {{ from_utc(each_time(
        "date_trunc('hour', " ~ utc('observation_timestamp') ~ " - interval '3 hours')",
        "date_trunc('hour', " ~ utc('observation_timestamp') ~ ")",
        '1 hour'
    )) }} as observation_hour
from {{ ref('changed_observations').include(database=false) }}
where observation_timestamp is not null
