{{ config(materialized='table') }}

{% set columns = ['run', 'started', 'finished', 'asked', 'stored', 'unchanged', 'failed', 'quarantined', 'spooled',
                  'recovered', 'requests', 'error'] %}

with raw_runs as (
    select {{ columns | join(', ') }} from {{ raw_table(source('raw', 'ingestion_runs'), columns) }} as raw_rows
)

select * from raw_runs
{% if execute and load_relation(this) %}
union all
-- Runs that PostgreSQL's retention has dropped. A later run that is missing was deleted.
select {{ columns | join(', ') }}
from {{ this }}
where run not in (select run from raw_runs)
    and started < (
        select max(dropped_before)
        from {{ raw_table(source('raw', 'dropped_runs'), ['dropped_before']) }} as dropped
    )
{% endif %}
