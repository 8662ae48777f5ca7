{{ config(materialized='table') }}

{% set columns = ['run', 'started', 'finished', 'asked', 'stored', 'unchanged', 'failed', 'quarantined', 'spooled',
                  'recovered', 'requests', 'error'] %}

with raw_runs as (
    select {{ columns | join(', ') }} from {{ raw_table(source('raw', 'ingestion_runs'), columns) }} as raw_rows
)

select * from raw_runs
{% if execute and load_relation(this) %}
union all
-- Runs that PostgreSQL's retention has dropped: those before its oldest one.
select {{ columns | join(', ') }}
from {{ this }}
where started < (select min(started) from raw_runs) and run not in (select run from raw_runs)
{% endif %}
