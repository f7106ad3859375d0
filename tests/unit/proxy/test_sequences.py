"""`proxy.sequences`: how many sequences a request makes llama-server work on."""

import pytest

from supervisor.proxy import sequences

NATIVE, TEXT, CHAT = b"/completion", b"/v1/completions", b"/v1/chat/completions"
EMBED, RANK = b"/v1/embeddings", b"/v1/rerank"

CASES = [
    (NATIVE, {"prompt": "a"}, 1),
    (NATIVE, {"prompt": []}, 1),
    (NATIVE, {"prompt": ["a"]}, 1),
    (NATIVE, {"prompt": ["a", "b", "c"]}, 3),
    (NATIVE, {"prompt": [1, 2, 3]}, 1),  # one prompt, in tokens
    (NATIVE, {"prompt": [1, "b", 3]}, 1),  # mixed
    (NATIVE, {"prompt": ["a", "b", 3.5]}, 1),  # a number anywhere makes it one
    (NATIVE, {"prompt": [[1, 2], [3]]}, 2),
    (NATIVE, {"prompt": [{"prompt_string": "a"}, "b"]}, 2),
    (NATIVE, {"prompt": [True, False]}, 2),  # no numbers to llama-server, which refuses them
    (TEXT, {"prompt": ["a", "b"], "n": 3}, 6),
    (TEXT, {"prompt": "a", "n_cmpl": 2, "n": 9}, 2),
    (TEXT, {"prompt": "a", "n_cmpl": None, "n": 2}, 2),
    (TEXT, {"prompt": "a", "n": 2.9}, 2),
    (TEXT, {"prompt": "a", "n": 1e300}, 2**63),
    (TEXT, {"prompt": "a", "n": "many"}, 1),
    (TEXT, {"prompt": "a", "n": 0}, 1),
    (CHAT, {"messages": [{}] * 9, "n": 4}, 4),
    (CHAT, {"messages": [], "prompt": ["a", "b"]}, 1),
    (b"/infill", {"prompt": "a", "n": 2}, 2),
    (EMBED, {"input": ["a"] * 7, "content": "x"}, 7),
    (EMBED, {"input": [1, 2, 3]}, 1),
    (b"/embedding", {"content": [["a"], ["b"]]}, 2),
    (RANK, {"documents": ["a", "b"], "texts": ["c"]}, 2),
    (b"/rerank", {"documents": None, "texts": ["c", "d", "e"]}, 3),
    (b"/tokenize", {"content": ["a", "b"]}, 1),
]


@pytest.mark.parametrize(("path", "asked", "expected"), CASES)
def test_as_many_as_llama_server_makes_of_it(path, asked, expected):
    assert sequences.of(path, asked) == expected
