{% snapshot weather_daily_history %}
{{ config(
    unique_key=snapshot_key(['city', 'observation_date']),
    strategy='check',
    check_cols=['observations', 'temperature_min_f', 'temperature_mean_f', 'temperature_max_f', 'rain_mm', 'snow_mm',
                'wind_gust_max_mph'],
) }}

{% set changed, build_info = ref('changed_days'), ref('build_info') %}
{% set span = none if flags.FULL_REFRESH or not load_relation(this) else build_plan('built_through') %}
-- Days that are over; the snapshot keeps the values that a later observation, exclusion or replacement changes.
select
    city,
    observation_date,
    observations,
    temperature_min_f,
    temperature_mean_f,
    temperature_max_f,
    rain_mm,
    snow_mm,
    wind_gust_max_mph
from ({{ days_with_running() }}) as days
where not is_running
{% if span %}
and (
    observation_date >= (select {{ utc_date('built_at') }} - 3 from {{ build_info }})
    or (city, observation_date) in (select city, observation_date from {{ changed }})
)
{% endif %}

{% endsnapshot %}
