{{ config(materialized='view') }}

{% set enough = var('enough_hours_of_a_day') %}
{% set of_temperature = ['temperature_mean_f', 'temperature_min_f', 'temperature_max_f', 'heating_degree_days_f',
                         'cooling_degree_days_f'] %}

-- Only days that are over and were observed enough; a day may count for the temperature only, or for the rain only.
with days as (
    select
        *,
        {%- for column in of_temperature %}
        case when temperature_hours_observed >= {{ enough }} then {{ column }} end as known_{{ column }},
        {%- endfor %}
        case when rain_covered_h >= {{ enough }} then rain_mm end as known_rain_mm
    from ({{ days_with_running() }}) as days
    where is_observed_enough and not is_running
),

newest as (
    select city, max(observation_date) as through
    from days
    group by city
),

months as (
    select
        days.*,
        newest.through,
        extract(year from days.observation_date) as year,
        extract(day from days.observation_date) as day_of_month
    from days
    inner join newest using (city)
    where extract(month from days.observation_date) = extract(month from newest.through)
        and extract(day from days.observation_date) <= extract(day from newest.through)
),

present as (
    select *
    from months
    where year = extract(year from through)
),

-- The same day of the earlier years, as mean over these years.
earlier as (
    select
        city,
        day_of_month,
        count(known_temperature_mean_f) as temperature_days,
        count(known_rain_mm) as rain_days,
        avg(known_temperature_mean_f) as temperature_mean_f,
        min(known_temperature_min_f) as temperature_min_f,
        max(known_temperature_max_f) as temperature_max_f,
        avg(known_rain_mm) as rain_mm,
        avg(known_heating_degree_days_f) as heating_degree_days_f,
        avg(known_cooling_degree_days_f) as cooling_degree_days_f
    from months
    where year < extract(year from through)
    group by city, day_of_month
),

earlier_years as (
    select months.city, count(distinct months.year) as earlier_years
    from months
    inner join present using (city, day_of_month)
    where months.year < extract(year from months.through)
        and months.known_temperature_mean_f is not null
        and present.known_temperature_mean_f is not null
    group by months.city
),

{% set is_known, was_known = 'present.known_temperature_mean_f is not null', 'earlier.temperature_days > 0' %}
compared as (
    select
        present.city,
        present.through,
        any_value(present.day_zone) as day_zone,
        count(*) as days_observed,
        count(present.known_temperature_mean_f) as temperature_days_observed,
        {{ filtered('count', '*', is_known ~ ' and ' ~ was_known) }} as days_compared,
        coalesce({{ filtered('sum', 'earlier.temperature_days', is_known) }}, 0) as days_earlier,
        avg(present.known_temperature_mean_f) as temperature_mean_f,
        {{ filtered('avg', 'present.known_temperature_mean_f', was_known) }} as temperature_mean_compared_f,
        {{ filtered('avg', 'earlier.temperature_mean_f', is_known) }} as temperature_mean_earlier_f,
        min(present.known_temperature_min_f) as temperature_min_f,
        {{ filtered('min', 'earlier.temperature_min_f', is_known) }} as temperature_min_earlier_f,
        max(present.known_temperature_max_f) as temperature_max_f,
        {{ filtered('max', 'earlier.temperature_max_f', is_known) }} as temperature_max_earlier_f,
        count(present.known_rain_mm) as rain_days_observed,
        {{ filtered('count', '*', 'present.known_rain_mm is not null and earlier.rain_days > 0') }}
            as rain_days_compared,
        sum(present.known_rain_mm) as rain_mm,
        {{ filtered('sum', 'present.known_rain_mm', 'earlier.rain_days > 0') }} as rain_compared_mm,
        {{ filtered('sum', 'earlier.rain_mm', 'present.known_rain_mm is not null') }} as rain_mean_earlier_mm,
        {%- for name in ('heating_degree_days', 'cooling_degree_days') %}
        sum(present.known_{{ name }}_f) as {{ name }}_f,
        {{ filtered('sum', 'present.known_' ~ name ~ '_f', was_known) }} as {{ name }}_compared_f,
        {{ filtered('sum', 'earlier.' ~ name ~ '_f', is_known) }} as {{ name }}_mean_earlier_f{{ "," if not loop.last }}
        {%- endfor %}
    from present
    left join earlier using (city, day_of_month)
    group by present.city, present.through
)

{% set temperatures = ['temperature_mean', 'temperature_mean_compared', 'temperature_mean_earlier', 'temperature_min',
                       'temperature_min_earlier', 'temperature_max', 'temperature_max_earlier'] %}
{% set degree_days = ['heating_degree_days', 'heating_degree_days_compared', 'heating_degree_days_mean_earlier',
                      'cooling_degree_days', 'cooling_degree_days_compared', 'cooling_degree_days_mean_earlier'] %}
select
    compared.city,
    cast(date_trunc('month', compared.through) as date) as month,
    compared.through,
    compared.day_zone,
    compared.days_observed,
    compared.temperature_days_observed,
    compared.days_compared,
    cast(compared.days_earlier as bigint) as days_earlier,
    coalesce(earlier_years.earlier_years, 0) as earlier_years,
    {%- for name in temperatures %}
    compared.{{ name }}_f,
    {{ fahrenheit_to_celsius('compared.' ~ name ~ '_f') }} as {{ name }}_c,
    {%- endfor %}
    compared.temperature_mean_compared_f - compared.temperature_mean_earlier_f as temperature_difference_f,
    (compared.temperature_mean_compared_f - compared.temperature_mean_earlier_f) / 1.8 as temperature_difference_c,
    compared.rain_days_observed,
    compared.rain_days_compared,
    compared.rain_mm,
    compared.rain_compared_mm,
    compared.rain_mean_earlier_mm,
    {%- for name in degree_days %}
    compared.{{ name }}_f,
    compared.{{ name }}_f / 1.8 as {{ name }}_c{{ "," if not loop.last }}
    {%- endfor %}
from compared
left join earlier_years using (city)
