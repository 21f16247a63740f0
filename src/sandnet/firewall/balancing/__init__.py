"""Load balancing of services: rules, elements, and what is programmed."""
