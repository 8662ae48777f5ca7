{{ config(materialized='view') }}

-- record: column and sort order
{% set records = {
    'hottest day': ('temperature_max_f', 'desc'),
    'coldest day': ('temperature_min_f', 'asc'),
    'warmest night': ('temperature_min_f', 'desc'),
    'coolest day': ('temperature_max_f', 'asc'),
    'windiest day': ('wind_speed_mean_mph', 'desc'),
    'strongest wind': ('wind_speed_max_mph', 'desc'),
    'strongest gust': ('wind_gust_max_mph', 'desc'),
    'wettest day': ('rain_mm', 'desc'),
    'snowiest day': ('snow_mm', 'desc'),
} %}

with ranked as (
    {% for record, (column, order) in records.items() %}
    select
        city,
        '{{ record }}' as record,
        '{{ column.rpartition('_')[2] }}' as unit,
        {{ column }} as value,
        observation_date,
        row_number() over (partition by city order by {{ column }} {{ order }}, observation_date) as place,
        count(*) over (partition by city) as days_observed
    from {{ ref('weather_daily').include(database=false) }}
    where {{ column }} is not null{{ " and " ~ column ~ " > 0" if column in ('rain_mm', 'snow_mm') }}
    {{ "union all" if not loop.last }}
    {% endfor %}
)

select city, record, value, unit, observation_date, days_observed
from ranked
where place = 1
