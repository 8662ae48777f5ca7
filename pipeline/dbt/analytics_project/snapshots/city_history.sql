{% snapshot city_history %}
{{ config(
    unique_key='city',
    strategy='check',
    check_cols=['place_id', 'place_name', 'country_code', 'latitude_deg', 'longitude_deg'],
    updated_at='ingested_at',
) }}

-- How each city was described last; cities of which nothing new has come stay as they are.
{% set since = tested_through() %}
select city, place_id, place_name, country_code, latitude_deg, longitude_deg, ingested_at
from (
    select *, row_number() over (partition by city order by place_name is null, ingested_at desc, id desc) as recency
    from {{ ref('stg_weather') }}
    {% if since %}
    where ingested_at > '{{ since }}'
    -- The history API tells no place: what it tells counts only for a city of which nothing else is known.
    and (place_name is not null or city not in (select city from {{ this }}))
    {% endif %}
) as told
where recency = 1

{% endsnapshot %}
