"""Figures: one harness, a file for each thing that is timed."""
