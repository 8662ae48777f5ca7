{{ config(materialized='view') }}

with newest as (
    select city, max(observation_date) as through
    from {{ ref('weather_daily').include(database=false) }}
    group by city
),

-- In every year: the days of the newest month, up to its newest day.
years as (
    select
        city,
        through,
        extract(year from observation_date) = extract(year from through) as is_this_year,
        extract(year from observation_date) as year,
        count(*) as days,
        avg(temperature_mean_f) as temperature_mean_f,
        min(temperature_min_f) as temperature_min_f,
        max(temperature_max_f) as temperature_max_f,
        sum(rain_mm) as rain_mm,
        sum(heating_degree_days_f) as heating_degree_days_f,
        sum(cooling_degree_days_f) as cooling_degree_days_f
    from {{ ref('weather_daily').include(database=false) }}
    inner join newest using (city)
    where extract(month from observation_date) = extract(month from through)
        and extract(day from observation_date) <= extract(day from through)
    group by city, through, extract(year from observation_date)
),

earlier as (
    select
        city,
        count(*) as earlier_years,
        avg(temperature_mean_f) as temperature_mean_f,
        min(temperature_min_f) as temperature_min_f,
        max(temperature_max_f) as temperature_max_f,
        avg(rain_mm) as rain_mm,
        avg(heating_degree_days_f) as heating_degree_days_f,
        avg(cooling_degree_days_f) as cooling_degree_days_f
    from years
    where not is_this_year
    group by city
)

select
    now.city,
    cast({{ dbt.date_trunc('month', 'now.through') }} as date) as month,
    now.through,
    now.days as days_observed,
    coalesce(earlier.earlier_years, 0) as earlier_years,
    now.temperature_mean_f,
    earlier.temperature_mean_f as temperature_mean_earlier_f,
    now.temperature_mean_f - earlier.temperature_mean_f as temperature_difference_f,
    now.temperature_min_f,
    earlier.temperature_min_f as temperature_min_earlier_f,
    now.temperature_max_f,
    earlier.temperature_max_f as temperature_max_earlier_f,
    now.rain_mm,
    earlier.rain_mm as rain_mean_earlier_mm,
    now.heating_degree_days_f,
    earlier.heating_degree_days_f as heating_degree_days_mean_earlier_f,
    now.cooling_degree_days_f,
    earlier.cooling_degree_days_f as cooling_degree_days_mean_earlier_f
from years as now
left join earlier on earlier.city = now.city
where now.is_this_year
