-- After any number of increments the mart counts exactly the observations in staging, and means are between extremes.
{% set tested = rows_to_test(ref('weather_daily')) %}
{% set first = none if tested is not string else first_value_to_test('observation_date') %}

with days as (
    select * from {{ tested }} as rows_to_test
),

observed as (
    select city, observation_date, count(*) as observations
    from {{ ref('stg_weather') }}
    where observation_date is not null
    {% if first %}
    and {{ not_before('observation_date', first) }}
    and {{ within_span('observation_timestamp', (first, 'infinity'), before='15 hours', periods='date') }}
    {% endif %}
    group by city, observation_date
)

select city, observation_date, 'count' as problem
from days
full join observed using (city, observation_date)
where coalesce(days.observations, 0) <> coalesce(observed.observations, 0)

union all

select city, observation_date, 'extremes' as problem
from days
where temperature_mean_f < temperature_min_f - 1e-9 or temperature_mean_f > temperature_max_f + 1e-9
