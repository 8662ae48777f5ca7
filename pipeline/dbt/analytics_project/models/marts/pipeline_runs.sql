{{ config(unique_key='run_id') }}

select
    run as run_id,
    started as started_at,
    finished as finished_at,
    {{ dbt.datediff('started', 'finished', 'second') }} as duration_s,
    case
        when finished is null then 'interrupted'
        when error is not null then 'failed'
        when failed + quarantined > 0 then 'partial'
        else 'success'
    end as outcome,
    asked as cities_requested,
    stored as observations_stored,
    unchanged as observations_unchanged,
    failed as cities_failed,
    quarantined as responses_quarantined,
    spooled as observations_spooled,
    recovered as observations_recovered,
    requests,
    error
from {{ raw_runs(source('raw', 'ingestion_runs'), watermark('started_at', '2 days')) }} as runs
order by started_at
