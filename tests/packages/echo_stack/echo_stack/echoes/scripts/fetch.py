"""Store one answer of the service echo on this container."""

from __future__ import annotations

import urllib.request

import psycopg

with urllib.request.urlopen("http://127.0.0.1:8901", timeout=10) as response:
    answer = response.read().decode().strip()
with psycopg.connect("") as connection:
    connection.execute("insert into answers (answer) values (%s)", [answer])
print(answer)
