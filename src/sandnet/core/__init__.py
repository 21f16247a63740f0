"""The core: the Container Network Model (networks, endpoints, sandboxes) on top of records, drivers and the kernel."""
