"""Sparse codes: few of many coordinates or dictionary atoms per item."""
