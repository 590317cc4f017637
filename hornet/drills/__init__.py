"""Real runs that are started to be killed, stopped or rehearsed."""
