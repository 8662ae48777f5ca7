{{ config(materialized='view') }}

select
    city,
    place_id,
    place_name,
    country_code,
    latitude_deg,
    longitude_deg,
    dbt_valid_from as valid_from
from {{ ref('city_history').include(database=false) }}
where dbt_valid_to is null
