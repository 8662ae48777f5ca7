{{ config(materialized='view') }}

-- A reading of rain covers at most the three hours before it. Local days are at most 14 hours ahead of UTC, and 12
-- behind: the offset of an observation may change, so all possible days count.
{% set before, after = ('3 hours', '0 hours') if days() == 'utc' else ('15 hours', '14 hours') %}
{% set days_of_row = (
    "date_trunc('day', " ~ utc('observation_timestamp') ~ " - interval '" ~ before ~ "')",
    "date_trunc('day', " ~ utc('observation_timestamp') ~ " + interval '" ~ after ~ "')",
    '1 day'
) %}
select distinct
    city,
    cast({{ each_time(*days_of_row) }} as date) as observation_date
from {{ ref('changed_observations').include(database=false) }} {{ each_time_source(*days_of_row) }}
where observation_timestamp is not null
