"""Casts, integer grids and rotated scalar codes: every coordinate coded on its own."""
