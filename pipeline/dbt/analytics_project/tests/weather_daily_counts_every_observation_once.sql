-- However often it was built in pieces, the mart counts what staging holds, and its means lie between its extremes.
with counted as (
    select city, sum(observations) as observations
    from {{ ref('weather_daily') }}
    group by city
),

observed as (
    select city, count(distinct observation_timestamp) as observations
    from {{ ref('stg_weather') }}
    group by city
)

select city, 'count' as broken
from counted
full join observed using (city)
where counted.observations is distinct from observed.observations

union all

select city, 'extremes' as broken
from {{ ref('weather_daily') }}
where temperature_mean_f < temperature_min_f - 1e-9 or temperature_mean_f > temperature_max_f + 1e-9
