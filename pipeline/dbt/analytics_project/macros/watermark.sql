{# The newest `column` of what this model holds, less the overlap, as text; none before the first row. It is read
   beforehand and written into the query as a literal, which an index or a zone map can use. #}
{% macro watermark(column) -%}
    {% if not (execute and is_incremental()) %}{{ return(none) }}{% endif %}
    {% set newest = run_query("select max(" ~ column ~ ") - interval '" ~ var('overlap') ~ "' from " ~ this) %}
    {% set value = newest.rows[0][0] %}
    {{ return(value and value | string) }}
{%- endmacro %}
