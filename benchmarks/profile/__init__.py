"""Where the time goes on a CPU."""
