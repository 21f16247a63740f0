"""The pool of prepared sandboxes: making them, holding them, and handing them out."""
