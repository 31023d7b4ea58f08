"""Measurements: ratios from one run, side by side, medians of interleaved rounds. Absolute times here are noise."""
