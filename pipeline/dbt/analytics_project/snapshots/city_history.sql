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
from {{ ref('stg_weather') }}
{% if since %}where ingested_at > '{{ since }}'{% endif %}
qualify row_number() over (partition by city order by ingested_at desc, id desc) = 1

{% endsnapshot %}
