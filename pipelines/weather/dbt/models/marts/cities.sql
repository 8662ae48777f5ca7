{{ config(materialized='view') }}

select city, place_id, place_name, country_code, latitude_deg, longitude_deg, valid_from
from {{ ref('city_history').include(database=false) }}
where valid_to is null
