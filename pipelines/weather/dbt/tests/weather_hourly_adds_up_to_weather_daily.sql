-- The observations of a day's hours add up to those of the day, and so does the time that rain is known for.
{% set tested = rows_to_test(ref('weather_daily')) %}
{% set first = none if tested is not string else first_value_to_test('observation_date') %}

with hours as (
    select city, {{ utc_date('observation_hour') }} as observation_date, sum(observations) as observations
    from {{ ref('weather_hourly') }}
    {% if first %}where {{ within_span('observation_hour', (first, 'infinity'), periods='date') }}{% endif %}
    group by 1, 2
)

select city, observation_date
from hours
full join {{ tested }} as days using (city, observation_date)
where coalesce(hours.observations, 0) <> coalesce(days.observations, 0) and {{ 'true' if days() == 'utc' else 'false' }}
