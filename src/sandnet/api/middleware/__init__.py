"""ASGI middleware: the checks and conversions that each HTTP request passes before it is routed."""
