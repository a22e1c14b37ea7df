"""What the cluster raises."""


class ClusterError(Exception):
    """A step towards the wanted state of the cluster failed; the message says which and what to look at."""
