{{ config(materialized='view') }}

-- record: column without its unit, units, sort order
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
-- The hours of the day for which a record's column is known: of gusts, which many observations omit, those of the wind.
{% set known_hours = {
    'temperature': 'temperature_hours_observed',
    'wind': 'wind_hours_observed',
    'rain': 'rain_covered_h',
    'snow': 'snow_covered_h',
} %}

with days as (
    select
        *{% for measured, hours in known_hours.items() %},
        {{ hours }} >= {{ var('enough_hours_of_a_day') }} and not is_running as is_{{ measured }}_compared
        {%- endfor %}

    from ({{ days_with_running() }}) as days
),

ranked as (
    {% for record, (column, units, order) in records.items() %}
    {% set compared = "is_" ~ column.split('_')[0] ~ "_compared" %}
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
