"""All that is worth knowing of a machine with GPUs, in one go."""
