"""The core on a real Slurm: how jobs end, what is in the queue, and what happens where Slurm itself is in trouble."""
