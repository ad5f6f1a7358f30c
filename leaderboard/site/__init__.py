"""Write boards as a site of static files that open from disk."""
