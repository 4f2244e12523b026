"""A trained network takes up another task: only what is that task's own is trained, on what was cached."""
