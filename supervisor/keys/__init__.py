"""API keys: what one is, the file they are kept in, and those in force. Knows nothing of HTTP."""
