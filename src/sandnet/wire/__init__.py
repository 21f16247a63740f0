"""Message shapes, one file a dialect. Never the records of ``model``."""
