"""The messages of the REST interface, one module for each dialect. They are separate from the records of ``model``."""
