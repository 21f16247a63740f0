"""Distinguish one machine from another."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path


def machine_digest() -> str:
    """Return a digest that differs by machine, without revealing its id (machine-id(5))."""
    try:
        text = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    return sha256(f"sandnet/{text}".encode()).hexdigest()[:16]
