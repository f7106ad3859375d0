"""What the tests stand on: a stand-in llama-server with failure switches, and a raw HTTP client."""
