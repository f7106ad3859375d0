import math

from supervisor.proc import gguf_header as gguf


def test_the_tables_are_ggml_s():
    names = [name for name, _, _ in gguf.TENSOR_TYPES.values()]
    assert len(set(names)) == len(names) == 35
    assert all(math.log2(block).is_integer() for _, block, _ in gguf.TENSOR_TYPES.values())
    assert gguf.TENSOR_TYPES[14] == ("q6_K", 256, 210)
    assert [gguf.FILE_TYPES[number] for number in (1, 7, 15, 32, 41)] == [
        "F16",
        "Q8_0",
        "Q4_K_M",
        "BF16",
        "Q2_0",
    ]
