{# Assign each observation to the nearest scheduled time; a tie to the later one. #}
{% macro nearest_scheduled_time(observations) -%}
    select
        observed.city,
        case
            when epoch(times.next_scheduled_at) - epoch(observed.observation_timestamp)
                <= epoch(observed.observation_timestamp) - epoch(times.scheduled_at) then times.next_scheduled_at
            else times.scheduled_at
        end as scheduled_at
    from {{ observations }} as observed
    asof inner join {{ ref('scheduled_times').include(database=false) }} as times
        on observed.observation_timestamp >= times.scheduled_at
{%- endmacro %}
