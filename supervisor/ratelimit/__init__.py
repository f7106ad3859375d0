"""What a client may ask of the machine. Knows nothing of HTTP: names and numbers in, verdicts out."""
