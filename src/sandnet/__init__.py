"""Container networking without a container engine."""
