select answer, count(*) as fetches
from {{ source('echoes', 'answers') }}
group by all
