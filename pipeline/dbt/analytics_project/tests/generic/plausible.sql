{# A value that is there lies within its bounds, `column: [from, to]`. One query for all columns of a model. #}
{% test plausible(model, ranges) %}
select {{ ranges.keys() | join(', ') }}
from {{ model }}
where {% for column, bounds in ranges.items() %}{{ column }} not between {{ bounds[0] }} and {{ bounds[1] }}
    {{- " or " if not loop.last }}{% endfor %}
{% endtest %}
