"""Ways to a process on the login node, one module each. Nothing above knows which one it talks through."""
