{{ config(materialized='view') }}

-- record: column without its unit, units, sort order, and the column that must be observed enough
{% set records = {
    'hottest day': ('temperature_max', ('f', 'c'), 'desc'),
    'coldest day': ('temperature_min', ('f', 'c'), 'asc'),
    'warmest night': ('temperature_min', ('f', 'c'), 'desc'),
    'coolest day': ('temperature_max', ('f', 'c'), 'asc'),
    'windiest day': ('wind_speed_mean', ('mph', 'ms'), 'desc'),
    'strongest wind': ('wind_speed_max', ('mph', 'ms'), 'desc'),
    'strongest gust': ('wind_gust_max', ('mph', 'ms'), 'desc'),
    'wettest day': ('rain', ('mm',), 'desc'),
    'snowiest day': ('snow', ('mm',), 'desc'),
} %}

with days as (
    select
        *,
        is_observed_enough and not is_running as is_compared,
        rain_covered_h >= {{ var('enough_hours_of_a_day') }} and not is_running as is_rain_compared,
        snow_covered_h >= {{ var('enough_hours_of_a_day') }} and not is_running as is_snow_compared
    from ({{ days_with_running() }}) as days
),

ranked as (
    {% for record, (column, units, order) in records.items() %}
    {% set compared = "is_" ~ column ~ "_compared" if column in ('rain', 'snow') else "is_compared" %}
    select
        city,
        '{{ record }}' as record,
        {{ column }}_{{ units[0] }} as value,
        '{{ units[0] }}' as unit,
        {{ column }}_{{ units[-1] }} as value_metric,
        '{{ units[-1] }}' as unit_metric,
        observation_date,
        day_zone,
        {{ compared }} as is_compared,
        -- Rounded: the last digits of a sum depend on the order of its rows, and of a value on its unit.
        row_number() over (
            partition by city
            order by not {{ compared }}, {{ rounded(column ~ '_' ~ units[0], 6) }} {{ order }}, observation_date
        ) as place,
        {{ filtered('count', '*', compared) }} over (partition by city) as days_observed,
        {{ filtered('count', '*', 'not ' ~ compared) }} over (partition by city) as days_left_out
    from days
    where {{ column }}_{{ units[0] }} is not null{{ " and " ~ column ~ "_mm > 0" if column in ('rain', 'snow') }}
    {{ "union all" if not loop.last }}
    {% endfor %}
)

select city, record, value, unit, value_metric, unit_metric, observation_date, day_zone, days_observed, days_left_out
from ranked
where place = 1 and is_compared
