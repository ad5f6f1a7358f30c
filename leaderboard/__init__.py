"""Turn results into ranked boards."""
