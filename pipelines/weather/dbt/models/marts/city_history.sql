{{ config(materialized='view') }}

{% set described = ['place_id', 'place_name', 'country_code', 'latitude_deg', 'longitude_deg'] %}

with candidates as (
    select
        *,
        {{ row_of(described) }} as place,
        {{ any_true('place_name is not null') }} over (partition by city) as is_named
    from {{ ref('place_versions').include(database=false) }}
),

-- Observations without a place count only for cities without any other.
changes as (
    select
        *,
        lag(place) over (partition by city order by observed_at) as previous
    from candidates
    where place_name is not null or not is_named
),

versions as (
    select *, lead({{ nullable('observed_at') }}) over (partition by city order by observed_at) as valid_to
    from changes
    where place is distinct from previous
)

select city, {{ described | join(', ') }}, observed_at as valid_from, valid_to
from versions
