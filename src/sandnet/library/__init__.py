"""The library for Python programs: networks and sandboxes as context managers (docs/python.md)."""
