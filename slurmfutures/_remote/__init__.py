"""The cluster half: ships alone, standard library only, Python 3.8 or later."""
