{{ config(materialized='view') }}

{% set rain_enough = "rain_covered_h >= " ~ var('enough_hours_of_a_day') %}

-- Only days that are over and were observed enough.
with days as (
    select
        *,
        case when {{ rain_enough }} then rain_mm end as known_rain_mm
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
        count(*) as days,
        count(known_rain_mm) as rain_days,
        avg(temperature_mean_f) as temperature_mean_f,
        min(temperature_min_f) as temperature_min_f,
        max(temperature_max_f) as temperature_max_f,
        avg(known_rain_mm) as rain_mm,
        avg(heating_degree_days_f) as heating_degree_days_f,
        avg(cooling_degree_days_f) as cooling_degree_days_f
    from months
    where year < extract(year from through)
    group by city, day_of_month
),

earlier_years as (
    select months.city, count(distinct months.year) as earlier_years
    from months
    inner join present using (city, day_of_month)
    where months.year < extract(year from months.through)
    group by months.city
),

compared as (
    select
        present.city,
        present.through,
        any_value(present.day_zone) as day_zone,
        count(*) as days_observed,
        count(earlier.days) as days_compared,
        coalesce(sum(earlier.days), 0) as days_earlier,
        avg(present.temperature_mean_f) as temperature_mean_f,
        {{ filtered('avg', 'present.temperature_mean_f', 'earlier.days > 0') }} as temperature_mean_compared_f,
        avg(earlier.temperature_mean_f) as temperature_mean_earlier_f,
        min(present.temperature_min_f) as temperature_min_f,
        min(earlier.temperature_min_f) as temperature_min_earlier_f,
        max(present.temperature_max_f) as temperature_max_f,
        max(earlier.temperature_max_f) as temperature_max_earlier_f,
        count(present.known_rain_mm) as rain_days_observed,
        {{ filtered('count', '*', 'present.known_rain_mm is not null and earlier.rain_days > 0') }}
            as rain_days_compared,
        sum(present.known_rain_mm) as rain_mm,
        {{ filtered('sum', 'present.known_rain_mm', 'earlier.rain_days > 0') }} as rain_compared_mm,
        {{ filtered('sum', 'earlier.rain_mm', 'present.known_rain_mm is not null') }} as rain_mean_earlier_mm,
        sum(present.heating_degree_days_f) as heating_degree_days_f,
        {{ filtered('sum', 'present.heating_degree_days_f', 'earlier.days > 0') }} as heating_degree_days_compared_f,
        sum(earlier.heating_degree_days_f) as heating_degree_days_mean_earlier_f,
        sum(present.cooling_degree_days_f) as cooling_degree_days_f,
        {{ filtered('sum', 'present.cooling_degree_days_f', 'earlier.days > 0') }} as cooling_degree_days_compared_f,
        sum(earlier.cooling_degree_days_f) as cooling_degree_days_mean_earlier_f
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
