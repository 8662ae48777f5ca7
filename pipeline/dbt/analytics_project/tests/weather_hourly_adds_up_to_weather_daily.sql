-- The observations of a day's hours add up to those of the day.
{% set first = first_value_to_test(ref('weather_daily')) %}

with hours as (
    select city, {{ utc_date('observation_hour') }} as observation_date, sum(observations) as observations
    from {{ ref('weather_hourly') }}
    {% if first %}where observation_hour >= cast('{{ first }}' as timestamp with time zone){% endif %}
    group by 1, 2
)

select city, observation_date
from hours
full join {{ rows_to_test(ref('weather_daily')) }} as days using (city, observation_date)
where hours.observations is distinct from days.observations
