{{ config(materialized='incremental', unique_key=['city', 'scheduled_date'],
          order_by='(scheduled_date, city)', settings={'allow_nullable_key': 1},
          meta={'changed_periods': 'changed_scheduled_dates'}) }}

{% set span = changed_span(ref('changed_scheduled_dates'), 'scheduled_date') %}
-- The observations from the last scheduled time before the changed dates to the first one after them.
{% set times = ref('scheduled_times') %}
{% if span and span[0] != 'infinity' %}
{% set since = query_scalar("max(scheduled_at)", times ~ " where scheduled_date < '" ~ span[0] ~ "'") %}
{% set until = query_scalar("min(scheduled_at)", times ~ " where scheduled_date > '" ~ span[1] ~ "'") %}
{% endif %}

{% set columns = ['observation_timestamp', 'city_timezone', 'utc_offset_s'] %}

with observations as (
    select city, {{ columns | join(', ') }}
    from {{ ref('stg_weather') }}
    where observation_date is not null
    {% if span %}
        and {% if span[0] == 'infinity' %}false{% else %}city in (select city from {{ ref('changed_scheduled_dates') }})
        {% if since %}and observation_timestamp >= {{ instant_of(since) }}{% endif %}
        {% if until %}and observation_timestamp <= {{ instant_of(until) }}{% endif %}
        {% endif %}
    {% endif %}
),

assigned as (
    {{ nearest_scheduled_time('observations', columns) }}
),

times as (
    select
        city,
        scheduled_at,
        {{ utc_date('scheduled_at') }} as scheduled_date,
        count(*) as observations,
        any_value(city_timezone) as city_timezone,
        {{ null_of('integer') if days() == 'utc' else newest('utc_offset_s', 'observation_timestamp') }}
            as utc_offset_s
    from assigned
    group by city, scheduled_at
),

dated as (
    select *, cast({{ local_time(utc('scheduled_at'), 'city_timezone', 'utc_offset_s') }} as date) as observation_date
    from times
    {% if span %}
    where (city, scheduled_date) in (select city, scheduled_date from {{ ref('changed_scheduled_dates') }})
    {% endif %}
),

{% if days() == 'utc' %}
parts as (
    select *, 1 as part from dated
),
{% else %}
-- A day (UTC) belongs to two local days, and its observations may have two offsets.
with_previous as (
    select
        *,
        row(observation_date, utc_offset_s) as zone,
        lag(row(observation_date, utc_offset_s)) over (partition by city, scheduled_date order by scheduled_at) as previous
    from dated
),

parts as (
    select
        *,
        count(*) filter (where zone is distinct from previous)
            over (partition by city, scheduled_date order by scheduled_at) as part
    from with_previous
),
{% endif %}

grouped as (
    select
        city,
        scheduled_date,
        observation_date,
        city_timezone,
        case when city_timezone is null then utc_offset_s end as utc_offset_s,
        part,
        sum(observations) as observations,
        min(scheduled_at) as first_scheduled_at,
        max(scheduled_at) as last_scheduled_at,
        {{ sorted_list('scheduled_at') }} as scheduled_times
    from parts
    group by
        city,
        scheduled_date,
        observation_date,
        city_timezone,
        case when city_timezone is null then utc_offset_s end,
        part
)

select
    city,
    scheduled_date,
    observation_date,
    city_timezone,
    utc_offset_s,
    cast(observations as bigint) as observations,
    first_scheduled_at,
    last_scheduled_at,
    scheduled_times
from grouped
order by scheduled_date, city, first_scheduled_at
