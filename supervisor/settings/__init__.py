"""The configuration: YAML and environment in, frozen settings out, every mistake with its file:line:column."""
