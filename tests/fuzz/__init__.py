"""The request parser against bytes that nobody would send: `make fuzz`, and a bounded part of it in the tests."""
