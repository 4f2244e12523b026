"""Load on a running server: `python -m client.bench sweep | overload | soak | compare`."""
