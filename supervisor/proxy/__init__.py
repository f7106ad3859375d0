"""The request path, in the order of `pipeline.STAGES`: from a client's first byte to the last of its answer."""
