"""Tests, on real processes, a real Slurm and real faults."""
