"""Text from containers, made safe for a terminal."""

from __future__ import annotations

import re

# Control characters except line feed and tab, which move the cursor or change the terminal, and the characters that
# reverse the direction of text or break a line (Unicode, annexes 9 and 14); unpaired surrogates have no encoding.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text with unsafe characters escaped, such as `\x1b`, and with line feeds as line ends."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))
