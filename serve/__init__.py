"""From a trained bundle to a running server: engines, export, Triton's steps, launching."""
