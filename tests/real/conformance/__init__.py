"""Conformance: what a client gets on llmsup's port is what llama-server itself says.

`case` is the form of a request; `chat_cases`, `text_cases`, `other_cases` and `wire_cases` are the requests;
`compare` says what of an answer counts; `differences` is the one list of what is meant to differ.
"""
