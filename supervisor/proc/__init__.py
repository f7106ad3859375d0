"""The llama-server children: pure decisions (state, backoff, causes, command) and their effects."""
