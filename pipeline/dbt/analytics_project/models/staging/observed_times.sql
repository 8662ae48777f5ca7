{{ config(materialized='incremental', incremental_strategy='replace_changed', on_schema_change='fail',
          unique_key=['city', 'scheduled_date'], meta={'changed_periods': 'changed_scheduled_dates'}) }}

{% set span = changed_span(ref('changed_scheduled_dates'), 'scheduled_date') %}
-- The observations from the last scheduled time before the changed dates to the first one after them.
{% set times = ref('scheduled_times') %}
{% if span and span[0] != 'infinity' %}
{% set since = query_scalar("max(scheduled_at)", times ~ " where scheduled_date < '" ~ span[0] ~ "'") %}
{% set until = query_scalar("min(scheduled_at)", times ~ " where scheduled_date > '" ~ span[1] ~ "'") %}
{% endif %}

with observations as (
    select city, observation_timestamp
    from {{ ref('stg_weather') }}
    {% if span %}
    where {% if span[0] == 'infinity' %}false{% else %}city in (select city from {{ ref('changed_scheduled_dates') }})
        {% if since %}and observation_timestamp >= timestamp with time zone '{{ since }}'{% endif %}
        {% if until %}and observation_timestamp <= timestamp with time zone '{{ until }}'{% endif %}
        {% endif %}
    {% endif %}
),

assigned as (
    {{ nearest_scheduled_time('observations') }}
)

select
    city,
    {{ utc_date('scheduled_at') }} as scheduled_date,
    count(*) as observations,
    min(scheduled_at) as first_scheduled_at,
    max(scheduled_at) as last_scheduled_at,
    {{ sorted_list('scheduled_at') }} as scheduled_times
from assigned
{% if span %}
where (city, {{ utc_date('scheduled_at') }}) in (select city, scheduled_date from {{ ref('changed_scheduled_dates') }})
{% endif %}
group by 1, 2
order by 2, 1
