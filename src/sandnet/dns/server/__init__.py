"""The resolver process: it answers the questions of sandboxes."""
