"""Interfaces inside sandboxes: what they have besides link and addresses."""
