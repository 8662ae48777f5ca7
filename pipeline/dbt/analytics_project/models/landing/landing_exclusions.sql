{{ config(materialized='table') }}

{% set columns = ['id', 'city', 'first', 'until', 'reason', 'excluded_by', 'created_at'] %}
{% set existing = load_relation(this) if execute else none %}

with raw_exclusions as (
    select {{ columns | join(', ') }}, revoked_at is null as is_active
    from {{ raw_table(source('raw', 'exclusions'), columns + ['revoked_at']) }} as raw_rows
)

select
    raw_exclusions.*,
    {% if existing %}
    case
        when known.id is not null and known.is_active = raw_exclusions.is_active
            and known.city is not distinct from raw_exclusions.city
            and known.first = raw_exclusions.first and known.until = raw_exclusions.until then known.changed_in
        else {{ build_plan('build') or 0 }}
    end as changed_in
    {% else %}
    cast({{ build_plan('build') or 0 }} as bigint) as changed_in
    {% endif %}
from raw_exclusions
{% if existing %}
left join {{ this }} as known using (id)

union all

-- An exclusion that was deleted in PostgreSQL excludes nothing any more.
select
    {{ columns | join(', ') }},
    false as is_active,
    case when is_active then {{ build_plan('build') or 0 }} else changed_in end as changed_in
from {{ this }}
where id not in (select id from raw_exclusions)
{% endif %}
