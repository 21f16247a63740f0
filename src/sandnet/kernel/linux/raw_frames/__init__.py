"""Frames that the daemon sends itself: announcements of addresses, and solicitations of routers."""
