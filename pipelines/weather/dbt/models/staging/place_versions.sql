{{ config(materialized='incremental', unique_key=['city', 'utc_date'],
          order_by='(utc_date, city)', settings={'allow_nullable_key': 1}, meta={'changed_periods': 'changed_utc_dates'}) }}

{% set span = changed_span(ref('changed_utc_dates'), 'utc_date') %}
{% set described = ['place_id', 'place_name', 'country_code', 'latitude_deg', 'longitude_deg'] %}

with observations as (
    select
        city,
        {{ utc_date('observation_timestamp') }} as utc_date,
        observation_timestamp,
        {{ described | join(', ') }},
        {{ row_of(described) }} as place
    from {{ ref('stg_weather') }}
    where {{ within_span('observation_timestamp', span, after='24 hours', periods='date') }}
    {% if span %}
    and (city, {{ utc_date('observation_timestamp') }}) in (select city, utc_date from {{ ref('changed_utc_dates') }})
    {% endif %}
),

with_previous as (
    -- The history API returns no place: its rows are described apart from the others.
    select *, lag(place) over (
        partition by city, utc_date, place_name is null order by observation_timestamp
    ) as previous
    from observations
)

select city, utc_date, observation_timestamp as observed_at, {{ described | join(', ') }}
from with_previous
where place is distinct from previous
order by utc_date, city, observed_at
