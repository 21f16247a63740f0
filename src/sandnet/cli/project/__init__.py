"""Files that declare networks and services: reading, comparison with what exists, and export."""
