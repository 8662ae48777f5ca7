with present as (
    select dag_id, is_paused from dag
    -- Airflow 3.x has the column is_stale, 2.11 is_active.
    where coalesce(not (to_jsonb(dag) ->> 'is_stale')::boolean, (to_jsonb(dag) ->> 'is_active')::boolean)
), last as (
    select distinct on (dag_id) dag_id, state, start_date, end_date
    from dag_run join present using (dag_id)
    where state in ('success', 'failed') and end_date is not null
    order by dag_id, end_date desc
), metrics (name, dag, state, value) as (
    select 'scheduler_heartbeat_timestamp_seconds', null, null, extract(epoch from max(latest_heartbeat))
    from job where job_type = 'SchedulerJob'
    union all
    select 'import_errors', null, null, count(*) from import_error
    union all
    select 'dag_paused', dag_id, null, is_paused::int from present
    union all
    select 'dag_runs', dag_id, state, count(*) from dag_run join present using (dag_id)
    where state in ('queued', 'running') or end_date > now() - interval '1 day' group by dag_id, state
    union all
    select 'dag_last_run_success', dag_id, null, (state = 'success')::int from last
    union all
    select 'dag_last_run_timestamp_seconds', dag_id, null, extract(epoch from end_date) from last
    union all
    select 'dag_last_run_duration_seconds', dag_id, null, extract(epoch from end_date - start_date) from last
)
select 'homelab_airflow_' || name || coalesce('{dag="' || dag || '"' || coalesce(',state="' || state || '"', '') || '}', '')
    || ' ' || round(value, 1)
from metrics where value is not null
