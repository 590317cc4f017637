"""Sets on servers: ranges of bytes, whole tars in a cache of the node."""
