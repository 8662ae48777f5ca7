create table answers (
    fetched_at timestamptz primary key default now(),
    answer text not null
);
