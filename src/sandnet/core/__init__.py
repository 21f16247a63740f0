"""The Container Network Model over records, drivers and the kernel."""
