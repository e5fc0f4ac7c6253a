"""Neural Music Interpolation in JAX."""
