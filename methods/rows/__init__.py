"""Fewer rows: which items are kept at all."""
