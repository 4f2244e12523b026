"""`cma-clip publish`: a new bundle into a running server."""
