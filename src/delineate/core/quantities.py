"""Durations and sizes as people write them: ``40m``, ``8G``."""

from __future__ import annotations

import re

from delineate.core.errors import ConfigError


def parse_duration(text: str) -> float:
    """Seconds of ``"90s"``, ``"40m"``, ``"1h30m"``, ``"2h"``.

    Raises:
        ConfigError: Not a positive duration with its units.
    """
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text.strip(), re.ASCII)
    hours, minutes, seconds = (float(g or 0) for g in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ConfigError(
            f"expected a duration such as 90s, 40m or 1h30m, got {text!r}",
            fix=f"write {text.strip()}s or {text.strip()}m"
            if re.fullmatch(r"[1-9]\d*", text.strip())
            else "write a number with its unit: h, m or s",
            code="config-duration",
        )
    return total


def parse_bytes(text: str) -> int:
    """Bytes of ``"8G"``, ``"512M"``, ``"1.5 GiB"``; the units are powers of 1024.

    Raises:
        ConfigError: Not a positive size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", text.strip().upper(), re.ASCII)
    size = int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " ")) if match else 0
    if size <= 0:
        raise ConfigError(f"expected a size such as 512M or 8G, got {text!r}", code="config-bytes")
    return size


# --- checks: plain data against type hints ------------------------------------------------------
