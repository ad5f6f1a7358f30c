"""The regression gate: what changed between two sets of results, how sure, and whether a build should fail."""
