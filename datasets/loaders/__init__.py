"""Load data sets: one module per format, one card per data set."""
