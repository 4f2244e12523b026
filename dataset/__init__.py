"""From tables and archives to a data set on disk, and back to products."""
