"""Patterns of the parts of URLs."""

from __future__ import annotations

PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
SERVER = rf"(\[[0-9A-Fa-f:.]+\]|[^\s@/?#:\[\]]+)(:{PORT})?"  # host or address, and port
HTTP_URL = rf"https?://{SERVER}(/[^\s?#]*)?"
