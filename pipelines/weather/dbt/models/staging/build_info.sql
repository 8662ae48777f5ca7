{{ config(materialized='table') }}

{% set as_of = "'" ~ build_plan('as_of') ~ "'" if build_plan('as_of') else 'current_timestamp' %}
select
    cast(coalesce('{{ build_plan("build") or 0 }}', '0') as bigint) as build,
    {{ as_instant(as_of) }} as built_at,
    '{{ days() }}' as days
