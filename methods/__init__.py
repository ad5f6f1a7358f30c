"""Hold the built-in methods: one file each, in one folder per family."""
