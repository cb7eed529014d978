"""Pure functions of arrays: no parameters, no randomness, no configuration."""
