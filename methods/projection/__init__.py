"""Fewer or better-conditioned coordinates: transforms that go in front of any code."""
