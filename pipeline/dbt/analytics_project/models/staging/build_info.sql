{{ config(materialized='table') }}

select
    cast(coalesce('{{ build_plan("build") or 0 }}', '0') as bigint) as build,
    cast({{ "'" ~ build_plan("as_of") ~ "'" if build_plan("as_of") else 'current_timestamp' }} as timestamp with time zone) as built_at,
    '{{ days() }}' as days
