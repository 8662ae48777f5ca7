{{ config(unique_key='run_id') }}

select
    run as run_id,
    started as started_at,
    finished as finished_at,
    {{ dbt.datediff('started', 'finished', 'second') }} as duration_s,
    case
        when finished is null then 'cut off'
        when error is not null then 'failed'
        when failed + quarantined > 0 then 'partly'
        else 'success'
    end as outcome,
    asked as cities_asked,
    stored as observations_stored,
    unchanged as observations_unchanged,
    failed as cities_failed,
    quarantined as answers_quarantined,
    spooled as answers_spooled,
    recovered as answers_recovered,
    requests,
    error
from {{ raw_runs(source('raw', 'ingestion_runs'), watermark('started_at', '2 days')) }} as runs
order by started_at
