{# Snowflake's variants. All times are TIMESTAMP_NTZ in UTC, which is a time with and without a zone; `days: local` is not
   supported. DuckDB lands the rows, and snowflake/build.py loads them: dbt parses the landing models, but runs none of
   those that read PostgreSQL. #}
{% macro snowflake__instant(time) -%} cast('{{ time }}' as timestamp_ntz) {%- endmacro %}
{% macro snowflake__instant_of(text) -%} cast('{{ text }}' as timestamp_ntz) {%- endmacro %}
{% macro snowflake__as_instant(value) -%}
    {{ return('sysdate()' if value == 'current_timestamp' else 'cast(' ~ value ~ ' as timestamp_ntz)') }}
{%- endmacro %}
{% macro snowflake__moved(text, sign, interval, periods) -%}
(cast('{{ text }}' as timestamp_ntz) {{ sign }}interval '{{ interval }}')
{%- endmacro %}
{% macro snowflake__or_infinity(value) -%} coalesce(to_varchar({{ value }}), 'infinity') {%- endmacro %}
{% macro snowflake__not_before(column, value) -%}
    {{ return('false' if value == 'infinity' else column ~ " >= '" ~ value ~ "'") }}
{%- endmacro %}
{% macro snowflake__null_of(kind) -%} cast(null as {{ kind }}) {%- endmacro %}
{% macro snowflake__nullable(value) -%} {{ value }} {%- endmacro %}
{% macro snowflake__bigint_of(number) -%} {{ number }} {%- endmacro %}
{% macro snowflake__boolean_of(condition) -%} {{ condition }} {%- endmacro %}
{% macro snowflake__any_true(condition) -%} boolor_agg({{ condition }}) {%- endmacro %}
{% macro snowflake__row_of(columns) -%} array_construct(to_varchar({{ columns | join('), to_varchar(') }})) {%- endmacro %}
{% macro snowflake__rounded(value, digits) -%} round({{ value }}, {{ digits }}) {%- endmacro %}
{% macro snowflake__rounded_seconds(first, last) -%} cast(round({{ seconds_between(first, last) }}) as bigint) {%- endmacro %}
{% macro snowflake__hours_before(time, number) -%} dateadd('hour', -{{ number }}, {{ time }}) {%- endmacro %}
{% macro snowflake__previous_value(value, window) -%} lag({{ value }}) ignore nulls over ({{ window }}) {%- endmacro %}
{% macro snowflake__last_within(time, interval) -%} {{ duckdb__last_within(time, interval) }} {%- endmacro %}
{% macro snowflake__filtered(function, value, condition) -%}
{{ function }}(case when {{ condition }} then {{ 1 if value == '*' else value }} end)
{%- endmacro %}
{% macro snowflake__largest(values) -%} greatest_ignore_nulls({{ values | join(', ') }}) {%- endmacro %}
{% macro snowflake__smallest(values) -%} least_ignore_nulls({{ values | join(', ') }}) {%- endmacro %}
{# A literal has a fixed number of digits, and so has what is computed from it. #}
{% macro snowflake__fractional(number) -%} cast({{ number }} as double) {%- endmacro %}
{% macro snowflake__range_text(low, high) -%}
'not between ' || to_varchar({{ low }}) || ' and ' || to_varchar({{ high }})
{%- endmacro %}
{% macro snowflake__delete_changed(target, changed, key) -%}
    delete from {{ target }} where ({{ key | join(', ') }}) in (select {{ key | join(', ') }} from {{ changed }})
{%- endmacro %}

{% macro snowflake__utc(time) -%} {{ time }} {%- endmacro %}
{% macro snowflake__from_utc(time) -%} {{ time }} {%- endmacro %}
{% macro snowflake__seconds_between(first, last) -%}
(cast(datediff('microsecond', {{ first }}, {{ last }}) as double) / 1000000)
{%- endmacro %}
{# The times of a row come from `each`; `first` is a whole hour or day. #}
{% macro snowflake__each_time(first, last, step) -%} dateadd('{{ step.split()[1] }}', each.index, {{ first }}) {%- endmacro %}
{% macro snowflake__each_time_source(first, last, step) -%}
cross join lateral flatten(input => array_generate_range(0, datediff('{{ step.split()[1] }}', {{ first }}, {{ last }}) + 1)) as each
{%- endmacro %}
{% macro snowflake__sorted_list(value) -%} array_sort(array_unique_agg({{ value }})) {%- endmacro %}
{% macro snowflake__length_of(list, until) -%}
    array_size({% if until %}filter({{ list }}, each -> each::timestamp_ntz <= {{ until }}){% else %}{{ list }}{% endif %})
{%- endmacro %}
{% macro snowflake__newest(value, time) -%}
max_by({{ value }}, case when {{ value }} is not null then {{ time }} end)
{%- endmacro %}

{# The times are joined by their ranges: fakesnow has no ASOF join with MATCH_CONDITION. #}
{% macro snowflake__observed_and_times(observations) -%}
    from {{ observations }} as observed
    inner join {{ ref('scheduled_times').include(database=false) }} as times
        on observed.observation_timestamp >= times.scheduled_at
        and observed.observation_timestamp < coalesce(times.next_scheduled_at, cast('9999-12-31' as timestamp_ntz))
{%- endmacro %}
{# A day without a scheduled time expects nothing. #}
{% macro snowflake__times_of_days(days, name) -%}
{{ name }} as (
    select
        days.city_timezone,
        days.utc_offset_s,
        days.observation_date,
        min(times.number) as first_number,
        max(times.number) as last_number
    from {{ days }} as days
    inner join {{ ref('scheduled_times').include(database=false) }} as times
        on days.observation_date = times.scheduled_date
    group by days.city_timezone, days.utc_offset_s, days.observation_date
)
{%- endmacro %}
{% macro snowflake__build_and_last_time() -%} {{ duckdb__build_and_last_time() }} {%- endmacro %}
{% macro snowflake__snapshot_key(columns) -%} {{ return(duckdb__snapshot_key(columns)) }} {%- endmacro %}

{% macro snowflake__number_of(text, kind) -%} {{ text }} {%- endmacro %}
{% macro snowflake__from_unix_time(seconds) -%} {{ seconds }} {%- endmacro %}
{% macro snowflake__raw_observations(source, since, months) -%} {{ source }} {%- endmacro %}
{% macro snowflake__raw_table(source, columns) -%} {{ source }} {%- endmacro %}
