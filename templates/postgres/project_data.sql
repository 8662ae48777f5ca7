-- Raw observations, as OpenWeather sent them. Grain: one answer of the API for one city.
create schema if not exists raw;
create table if not exists raw.weather_observations (
    id bigint generated always as identity primary key,
    city text not null,
    ingested_at timestamptz not null default now(),
    data jsonb not null
);
-- The incremental read asks for what came after a watermark.
create index if not exists weather_observations_ingested_at on raw.weather_observations (ingested_at);
