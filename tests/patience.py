"""How long tests wait for what comes by itself."""

PATIENCE = 1500.0
"""Seconds after which a process is called hung; what takes 2 minutes alone takes 15 beside a load of 8."""
