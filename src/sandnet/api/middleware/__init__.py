"""What each HTTP request passes before a route."""
