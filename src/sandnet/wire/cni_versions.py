"""The versions of the CNI specification, for the plugin's process too: it must start fast, so this imports nothing."""

VERSIONS = ("0.4.0", "1.0.0", "1.1.0")
"""The versions that are served."""
NEWEST = VERSIONS[-1]
