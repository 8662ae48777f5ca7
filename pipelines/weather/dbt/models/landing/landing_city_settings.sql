{{ config(materialized='table') }}

select
    city,
    case when timezone in (select name from pg_timezone_names()) then timezone end as timezone
from {{ raw_table(source('raw', 'city_settings'), ['city', 'timezone']) }} as raw_rows
