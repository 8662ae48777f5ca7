{# The intervals that the readings of rain and snow cover, one row per observation with a reading: from `rain_from` and
   `snow_from` (null without a reading) to `ended`, in UTC without a zone. A reading covers its window, but not the time
   that the previous reading covers. #}
{% macro precipitation_intervals(condition) -%}
    select
        *,
        {% for gauge in ('rain', 'snow') %}
        case when {{ gauge }}_mm is not null then {{ largest(
            hours_before('ended', gauge ~ '_window_h'),
            previous_value("case when " ~ gauge ~ "_mm is not null then ended end", "partition by city order by ended")
        ) }} end as {{ gauge }}_from{{ "," if not loop.last }}
        {% endfor %}
    from (
        select
            city,
            {{ utc('observation_timestamp') }} as ended,
            rain_mm,
            rain_window_h,
            snow_mm,
            snow_window_h,
            city_timezone,
            utc_offset_s,
            ingested_at
        from {{ ref('stg_weather') }}
        where (rain_mm is not null or snow_mm is not null) and {{ condition }}
    ) as readings
{%- endmacro %}

{# Sum the readings' shares of a period: an interval's amount is spread evenly over its window. Rounded to OpenWeather's
   precision: the last digits of a sum depend on the order. #}
{% macro precipitation_sums(begins, ends) -%}
    {% for gauge in ('rain', 'snow') %}
    {% set is_known = gauge ~ "_from is not null" %}
    {% set seconds = largest(seconds_between(largest(gauge ~ "_from", begins), smallest("ended", ends)), 0) %}
    {% set covered = filtered('sum', seconds, is_known) %}
    case when {{ covered }} > 0
        then {{ rounded(filtered('sum', gauge ~ '_mm * ' ~ seconds ~ ' / (' ~ gauge ~ '_window_h * 3600)', is_known), 2) }}
    end as {{ gauge }}_mm,
    {{ rounded('coalesce(' ~ covered ~ ', 0) / 3600', 4) }} as {{ gauge }}_covered_h,
    {% endfor %}
    max(ingested_at) as last_ingested_at
{%- endmacro %}
