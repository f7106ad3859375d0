"""What generates no text: vectors, ranks, tokens, templates, properties, and what is switched off."""

from collections.abc import Iterator
from typing import Any

from tests.real.conformance.case import EMBEDDING, RERANK, TOOLS, Case, each
from tests.real.conformance.chat_cases import BASE, CHAT, TOOL, TURN

EMBEDDINGS = "/v1/embeddings"
VECTORS: dict[str, Any] = {
    "one": {"input": "the cat"},
    "two": {"input": ["the cat", "a dog"]},
    "tokens": {"input": [72, 105]},
    "token-lists": {"input": [[72, 105], [300]]},
    "base64": {"input": "the cat", "encoding_format": "base64"},
    "float": {"input": "the cat", "encoding_format": "float", "model": "text-embedding-3-small"},
    "unicode": {"input": "日本語 🙂"},
    "content": {"content": "the cat"},
    "empty": {"input": ""},
    "not-normalised": {"input": "the cat", "embd_normalize": -1},
}
NO_VECTORS: dict[str, Any] = {
    "no-input": {},
    "bad-format": {"input": "a", "encoding_format": "nosuch"},
}
TOKENS: dict[str, tuple[str, Any]] = {
    "plain": ("/tokenize", {"content": "the cat"}),
    "empty": ("/tokenize", {"content": ""}),
    "nothing": ("/tokenize", {}),
    "unicode": ("/tokenize", {"content": "日本語 🙂 é\x00"}),
    "pieces": ("/tokenize", {"content": "the 日 cat", "with_pieces": True}),
    "special": ("/tokenize", {"content": "<|im_start|>user", "add_special": True, "parse_special": False}),
    "mixed": ("/tokenize", {"content": ["the", 300]}),
    "back": ("/detokenize", {"tokens": [1, 2, 300]}),
    "back-empty": ("/detokenize", {"tokens": []}),
    "back-half-a-character": ("/detokenize", {"tokens": [230]}),
    "template": ("/apply-template", {"messages": [TURN]}),
    "template-prefilled": ("/apply-template", {"messages": [TURN, {"role": "assistant", "content": "Once"}]}),
}
# Switched off without its flag or its kind of model.
OFF: dict[str, tuple[str, Any]] = {
    "embeddings": (EMBEDDINGS, {"input": "the cat"}),
    "embedding": ("/embedding", {"content": "the cat"}),
    "rerank": ("/rerank", {"query": "a", "documents": ["b"]}),
    "transcription": ("/v1/audio/transcriptions", {"file": "a"}),
}
RANKS: dict[str, Any] = {
    "plain": {"query": "the cat", "documents": ["the cat", "a dog", "日本語"]},
    "top": {"query": "the cat", "documents": ["the cat", "a dog"], "top_n": 1},
    "texts": {"query": "the cat", "texts": ["the cat", "a dog"], "return_text": True},
}
ABOUT = {  # for GET: path, status
    "props": ("/props", 200),
    "props-with-a-query": ("/props?model=demo&a=%20b", 200),
    "props-encoded": ("/%70rops", 200),
    "props-slash": ("/props/", 404),
    "lora": ("/lora-adapters", 200),
    "nowhere": ("/nonesuch", 404),
    "nowhere-encoded": ("/none%20such%2f", 404),
    "root": ("/", 404),
    "chat": (CHAT, 404),
}


def cases() -> Iterator[Case]:
    for name, body in VECTORS.items():
        yield Case(id=f"embeddings/{name}", path=EMBEDDINGS, body=body, server=EMBEDDING)
    for path in ("/embeddings", "/embedding"):
        for name, body in (("one", {"content": "the cat"}), ("two", {"content": ["the cat", "a dog"]})):
            yield Case(id=f"embeddings/native{path}-{name}", path=path, body=body, server=EMBEDDING)
    for name, body in NO_VECTORS.items():
        yield Case(id=f"embeddings/refused/{name}", path=EMBEDDINGS, body=body, server=EMBEDDING, status=400)
    yield Case(
        id="embeddings/failed/too-long",
        path=EMBEDDINGS,
        body={"input": "word " * 1500},
        server=EMBEDDING,
        status=500,
    )
    yield from each("embeddings/chat", CHAT, BASE, {"beside": {}}, server=EMBEDDING)
    for name, (path, body) in TOKENS.items():
        yield Case(id=f"tokens/{name}", path=path, body=body)
    yield Case(
        id="tokens/template-tools",
        path="/apply-template",
        body={"messages": [TURN], "tools": [TOOL]},
        server=TOOLS,
    )
    yield Case(id="tokens/back-out-of-range", path="/detokenize", body={"tokens": [10**7]}, status=500)
    yield Case(id="tokens/template-nothing", path="/apply-template", body={}, status=400)
    for name, (path, body) in OFF.items():
        yield Case(id=f"off/{name}", path=path, body=body, status=501)
    for path in ("/rerank", "/v1/rerank", "/reranking", "/v1/reranking"):
        yield Case(id=f"rerank/at{path}", path=path, body=RANKS["plain"], server=RERANK)
    for name, body in RANKS.items():
        yield Case(id=f"rerank/{name}", path="/v1/rerank", body=body, server=RERANK)
    yield Case(id="rerank/no-documents", path="/v1/rerank", body={"query": "a"}, server=RERANK, status=400)
    for name, (path, status) in ABOUT.items():
        yield Case(id=f"get/{name}", method="GET", path=path, status=status)
