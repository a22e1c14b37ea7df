"""Temporary stub."""
def render_options(options): return tuple(f"--{k.replace('_','-')}={v}" for k, v in sorted(options.items()) if v)
