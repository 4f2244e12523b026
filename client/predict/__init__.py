"""A whole catalogue through the server, resumable."""
