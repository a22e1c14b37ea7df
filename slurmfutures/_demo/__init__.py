"""The sweep of `slurmfutures demo`: a two-dimensional Ising model over a grid of temperatures.

`ising` is what runs on the cluster, `sweep` sends it there, `analysis` makes physics of what comes back, and `report`
shows that in a terminal.
"""
