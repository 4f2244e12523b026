"""Load on a running server: `python -m bench.load sweep | overload | soak | publish | compare`."""
