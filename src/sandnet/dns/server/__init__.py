"""The resolver process: it answers the DNS questions of sandboxes."""
