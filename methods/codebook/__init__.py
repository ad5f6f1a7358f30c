"""Vector quantisation: product, optimised product and residual codebooks."""
