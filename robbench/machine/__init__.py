"""Facts of the device: memory, precision, random generators, CUDA graphs, timing, environment."""
