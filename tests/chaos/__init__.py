"""Long runs against the real binary: `make chaos` and `make soak`. Not part of `make test`."""
