-- However often it was built in pieces, the mart counts what staging holds, and its means lie between its extremes.
{% set first = first_untested(ref('weather_daily')) %}

with days as (
    select * from {{ untested(ref('weather_daily')) }} as untested
),

observed as (
    select city, {{ utc_date('observation_timestamp') }} as observation_date,
        count(distinct observation_timestamp) as observations
    from {{ ref('stg_weather') }}
    {% if first %}where observation_timestamp >= cast('{{ first }}' as timestamp with time zone){% endif %}
    group by 1, 2
)

select city, observation_date, 'count' as broken
from days
full join observed using (city, observation_date)
where days.observations is distinct from observed.observations

union all

select city, observation_date, 'extremes' as broken
from days
where temperature_mean_f < temperature_min_f - 1e-9 or temperature_mean_f > temperature_max_f + 1e-9
