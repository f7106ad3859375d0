"""The rooms of the stand-in llama-server (``tests/support/fake_llama_server.py``)."""
