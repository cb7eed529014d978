"""A record to arrays, on the host."""
