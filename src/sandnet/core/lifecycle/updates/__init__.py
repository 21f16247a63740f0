"""Changes of objects while they are in use."""
