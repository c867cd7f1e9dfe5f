"""The hardware abstraction layer: one library a file, nothing vendor-specific anywhere else."""
