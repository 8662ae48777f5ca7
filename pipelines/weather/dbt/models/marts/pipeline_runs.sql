{{ config(materialized='table') }}

select
    run as run_id,
    started as started_at,
    finished as finished_at,
    {{ rounded_seconds('started', 'finished') }} as duration_s,
    case
        when finished is null then 'interrupted'
        when spooled > 0 and stored + unchanged + failed + quarantined = 0 then 'spooled'
        when error is not null or (asked > 0 and stored + unchanged + spooled = 0) then 'failed'
        when failed + quarantined + spooled > 0 then 'partial'
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
from {{ ref('landing_runs') }}
order by started
