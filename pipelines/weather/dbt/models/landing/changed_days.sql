{{ config(materialized='view') }}

-- A reading of rain covers at most the three hours before it. Local days are at most 14 hours ahead of UTC, and 12
-- behind: the offset of an observation may change, so all possible days count.
{% set before, after = ('3 hours', '0 hours') if days() == 'utc' else ('15 hours', '14 hours') %}
select distinct
    city,
    cast({{ each_time(
        "date_trunc('day', " ~ utc('observation_timestamp') ~ " - interval '" ~ before ~ "')",
        "date_trunc('day', " ~ utc('observation_timestamp') ~ " + interval '" ~ after ~ "')",
        '1 day'
    ) }} as date) as observation_date
from {{ ref('changed_observations').include(database=false) }}
where observation_timestamp is not null
