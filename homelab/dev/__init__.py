"""The pipeline on this machine, without containers: an embedded PostgreSQL, the weather's replay, dbt and DuckDB."""
