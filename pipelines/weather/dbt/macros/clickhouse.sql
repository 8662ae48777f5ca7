{# ClickHouse's variants. All times are DateTime64(6, 'UTC'), which is a time with and without a zone. The profile's
   settings give joins, casts, and aggregates of no rows null, as in DuckDB; `days: local` is not supported. #}
{% macro clickhouse__instant(time) -%} toDateTime64('{{ time }}', 6, 'UTC') {%- endmacro %}
{% macro clickhouse__instant_of(text) -%} parseDateTime64BestEffort('{{ text }}', 6, 'UTC') {%- endmacro %}
{% macro clickhouse__as_instant(value) -%} toDateTime64({{ value }}, 6, 'UTC') {%- endmacro %}
{% macro clickhouse__moved(text, sign, interval, periods) -%}
({{ clickhouse__instant_of(text) }} {{ sign }}interval '{{ interval }}')
{%- endmacro %}
{% macro clickhouse__or_infinity(value) -%} coalesce(toString({{ value }}), 'infinity') {%- endmacro %}
{% macro clickhouse__not_before(column, value) -%}
    {% if value == 'infinity' %}false{% else %}{{ column }} >= '{{ value }}'{% endif %}
{%- endmacro %}
{% macro clickhouse__null_of(kind) -%} cast(null as Nullable({{ kind }})) {%- endmacro %}
{% macro clickhouse__nullable(value) -%} toNullable({{ value }}) {%- endmacro %}
{% macro clickhouse__bigint_of(number) -%} toInt64({{ number }}) {%- endmacro %}
{# Its snapshots take one column, or one expression. #}
{% macro clickhouse__snapshot_key(columns) -%}
    {{ return("concat(toString(" ~ columns | join("), '|', toString(") ~ "))") }}
{%- endmacro %}
{% macro clickhouse__boolean_of(condition) -%} toBool({{ condition }}) {%- endmacro %}
{% macro clickhouse__any_true(condition) -%} max({{ condition }}) {%- endmacro %}
{% macro clickhouse__row_of(columns) -%} toString(tuple({{ columns | join(', ') }})) {%- endmacro %}
{# Its own `round` rounds half to even. #}
{% macro clickhouse__rounded(value, digits) -%}
(sign({{ value }}) * floor(abs({{ value }}) * 1e{{ digits }} + 0.5) / 1e{{ digits }})
{%- endmacro %}
{% macro clickhouse__rounded_seconds(first, last) -%} toInt64(round({{ seconds_between(first, last) }})) {%- endmacro %}
{% macro clickhouse__hours_before(time, number) -%} {{ time }} - toIntervalHour({{ number }}) {%- endmacro %}
{% macro clickhouse__previous_value(value, window) -%}
last_value({{ value }}) ignore nulls over ({{ window }} rows between unbounded preceding and 1 preceding)
{%- endmacro %}
{# A range takes numbers only; `interval` is in hours. #}
{% macro clickhouse__last_within(time, interval) -%}
max({{ time }}) over (
            order by toUnixTimestamp({{ time }})
            range between current row and {{ (interval.split()[0] | int) * 3600 }} following
        )
{%- endmacro %}

{% macro clickhouse__utc(time) -%} toDateTime64({{ time }}, 6, 'UTC') {%- endmacro %}
{% macro clickhouse__from_utc(time) -%} toDateTime64({{ time }}, 6, 'UTC') {%- endmacro %}
{% macro clickhouse__seconds_between(first, last) -%}
((toUnixTimestamp64Micro({{ utc(last) }}) - toUnixTimestamp64Micro({{ utc(first) }})) / 1000000)
{%- endmacro %}
{% macro clickhouse__each_time(first, last, step) -%}
    {% set seconds = {'1 hour': 3600, '1 day': 86400}[step] %}
    {% set start, count = utc(first), "intDiv(toUnixTimestamp64Milli(assumeNotNull(" ~ utc(last) ~ ")) - toUnixTimestamp64Milli(assumeNotNull(" ~ utc(first) ~ ")), " ~ seconds ~ "000) + 1" -%}
    arrayJoin(if(isNull({{ first }}) or isNull({{ last }}) or {{ last }} < {{ first }}, [], arrayMap(
        each -> assumeNotNull({{ start }}) + toIntervalSecond(each * {{ seconds }}), range(toUInt64({{ count }})))))
{%- endmacro %}
{% macro clickhouse__sorted_list(value) -%} arraySort(groupUniqArray(assumeNotNull({{ value }}))) {%- endmacro %}
{% macro clickhouse__length_of(list, until) -%}
    length({% if until %}arrayFilter(each -> each <= {{ until }}, {{ list }}){% else %}{{ list }}{% endif %})
{%- endmacro %}
{% macro clickhouse__newest(value, time) -%} argMax({{ value }}, {{ time }}) {%- endmacro %}

{# An ASOF join needs an equality, and a time that is not null. #}
{% macro clickhouse__observed_and_times(observations) -%}
    from (select *, 1 as one, assumeNotNull(observation_timestamp) as at from {{ observations }}) as observed
    asof inner join (
        select *, 1 as one, assumeNotNull(scheduled_at) as at from {{ ref('scheduled_times').include(database=false) }}
    ) as times
        on observed.one = times.one and observed.at >= times.at
{%- endmacro %}
{# A join of the left side needs an equality, too. #}
{% macro clickhouse__build_and_last_time() -%}
select
        build_info.built_at as built_at,
        max(case when build_info.built_at >= times.scheduled_at then times.number end) as last_number
    from {{ ref('build_info').include(database=false) }} as build_info
    cross join {{ ref('scheduled_times').include(database=false) }} as times
    group by build_info.built_at
{%- endmacro %}
{% macro clickhouse__times_of_days(days, name) -%}
{% set times %}(
        select number, 1 as one, assumeNotNull(scheduled_at) as at from {{ ref('scheduled_times').include(database=false) }}
    ){% endset -%}
days_with_first as (
    select days.*, first.number as first_number, 1 as one, assumeNotNull(days.ends) as end_at
    from (select *, 1 as one, assumeNotNull(begins) as begin_at from {{ days }}) as days
    asof inner join {{ times }} as first on days.one = first.one and days.begin_at <= first.at
),

{{ name }} as (
    select
        days.city_timezone,
        days.utc_offset_s,
        days.observation_date,
        days.first_number,
        last.number as last_number
    from days_with_first as days
    asof inner join {{ times }} as last on days.one = last.one and days.end_at > last.at
)
{%- endmacro %}

{# Delete the changed periods before the rows of an increment are appended. If a build ends in between, the next one
   computes them again: they have changed since the last complete build. #}
{% macro remove_changed_periods() -%}
    {%- set changed = config.get('meta', {}).get('changed_periods') if config.get('materialized') == 'incremental' -%}
    {%- if target.type == 'clickhouse' and changed and is_incremental() -%}
    {%- set key = config.get('unique_key') | join(', ') -%}
    delete from {{ this }} where ({{ key }}) in (select {{ key }} from {{ ref(changed) }})
    {%- endif -%}
{%- endmacro %}

{# DuckDB lands the rows: dbt parses the landing models for ClickHouse, too, but runs none. #}
{% macro clickhouse__number_of(text, kind) -%} {{ text }} {%- endmacro %}
{% macro clickhouse__from_unix_time(seconds) -%} {{ seconds }} {%- endmacro %}
{% macro clickhouse__raw_observations(source, since, months) -%} {{ source }} {%- endmacro %}
{% macro clickhouse__raw_table(source, columns) -%} {{ source }} {%- endmacro %}

{# Override of the adapter's macro: the hash of DuckDB, so that the history of either continues in the other. #}
{% macro clickhouse__snapshot_hash_arguments(args) -%}
    lower(hex(MD5({% for arg in args %}coalesce(cast({{ arg }} as varchar), ''){{ " || '|' || " if not loop.last }}{% endfor %})))
{%- endmacro %}

{# As in DuckDB. #}
{% macro clickhouse__filtered(function, value, condition) -%} {{ duckdb__filtered(function, value, condition) }} {%- endmacro %}
{% macro clickhouse__largest(values) -%} {{ duckdb__largest(values) }} {%- endmacro %}
{% macro clickhouse__smallest(values) -%} {{ duckdb__smallest(values) }} {%- endmacro %}
{% macro clickhouse__each_time_source(first, last, step) -%} {{ duckdb__each_time_source(first, last, step) }} {%- endmacro %}
{% macro clickhouse__fractional(number) -%} {{ duckdb__fractional(number) }} {%- endmacro %}
{% macro clickhouse__range_text(low, high) -%} {{ duckdb__range_text(low, high) }} {%- endmacro %}
{% macro clickhouse__delete_changed(target, changed, key) -%} {{ duckdb__delete_changed(target, changed, key) }} {%- endmacro %}
