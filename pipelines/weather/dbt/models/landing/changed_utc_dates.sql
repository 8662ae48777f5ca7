{{ config(materialized='view') }}

select distinct city, {{ utc_date('observation_timestamp') }} as utc_date
from {{ ref('changed_observations').include(database=false) }}
where observation_timestamp is not null
