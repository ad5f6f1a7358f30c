"""One bit per coordinate and its refinements: signs, hashes, RaBitQ."""
