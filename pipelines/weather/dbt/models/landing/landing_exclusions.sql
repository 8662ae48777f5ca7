{{ config(materialized='table') }}

{% set columns = ['id', 'city', 'first', 'until', 'reason', 'excluded_by', 'created_at'] %}
{% set build = build_plan('build') or 0 %}
{% set existing = load_relation(this) if execute else none %}

with raw_exclusions as (
    select {{ columns | join(', ') }}, revoked_at is null as is_active
    from {{ raw_table(source('raw', 'exclusions'), columns + ['revoked_at']) }} as raw_rows
)

select
    raw_exclusions.*,
    {{ "coalesce(unchanged.changed_in, " ~ build ~ ")" if existing else "cast(" ~ build ~ " as bigint)" }} as changed_in
from raw_exclusions
{% if existing %}
left join {{ this }} as unchanged
    on raw_exclusions.id = unchanged.id
    and raw_exclusions.is_active = unchanged.is_active
    and raw_exclusions.city is not distinct from unchanged.city
    and raw_exclusions.first = unchanged.first
    and raw_exclusions.until = unchanged.until

union all

-- An exclusion that was deleted in PostgreSQL excludes nothing any more.
select
    {{ columns | join(', ') }},
    false as is_active,
    case when is_active then {{ build }} else changed_in end as changed_in
from {{ this }}
where id not in (select id from raw_exclusions)
{% endif %}
