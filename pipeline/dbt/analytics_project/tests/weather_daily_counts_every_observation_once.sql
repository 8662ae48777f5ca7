-- After any number of increments the mart counts exactly the observations in staging, and means are between extremes.
{% set first = first_value_to_test(ref('weather_daily')) %}

with days as (
    select * from {{ rows_to_test(ref('weather_daily')) }} as rows_to_test
),

observed as (
    select city, {{ utc_date('observation_timestamp') }} as observation_date,
        count(distinct observation_timestamp) as observations
    from {{ ref('stg_weather') }}
    {% if first %}where observation_timestamp >= cast('{{ first }}' as timestamp with time zone){% endif %}
    group by 1, 2
)

select city, observation_date, 'count' as problem
from days
full join observed using (city, observation_date)
where days.observations is distinct from observed.observations

union all

select city, observation_date, 'extremes' as problem
from days
where temperature_mean_f < temperature_min_f - 1e-9 or temperature_mean_f > temperature_max_f + 1e-9
