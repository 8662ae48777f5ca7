{{ config(materialized='table') }}

{% set through = build_plan('built_through') or '0' %}
{% set weather, exclusions = ref('landing_weather'), ref('landing_exclusions') %}
{% set removed = source('build', 'removed_observations') %}
{% if flags.FULL_REFRESH %}
select city, observation_timestamp
from {{ weather }}
where false
{% else %}
select city, observation_timestamp
from {{ weather }}
where landed_in > {{ through }}
union
select weather.city, weather.observation_timestamp
from {{ weather }} as weather
inner join {{ exclusions }} as excluded
    on (excluded.city is null or weather.city = excluded.city)
    and weather.observation_timestamp >= excluded.first and weather.observation_timestamp < excluded.until
where excluded.changed_in > {{ through }}
{% if build_plan('build') %}
union
select city, observation_timestamp
from {{ removed }}
where removed_in > {{ through }}
{% endif %}
{% endif %}
