"""Makes the golden files of this directory: see README.md."""

import ctypes
import sys

import gguf
import numpy as np

# name: values per block, bytes per block, offsets of the block's half-precision numbers
FORMATS = {
    "Q4_0": (32, 18, [0]), "Q4_1": (32, 20, [0, 2]), "Q5_0": (32, 22, [0]),
    "Q5_1": (32, 24, [0, 2]), "Q8_0": (32, 34, [0]), "Q2_K": (256, 84, [80, 82]),
    "Q3_K": (256, 110, [108]), "Q4_K": (256, 144, [0, 2]), "Q5_K": (256, 176, [0, 2]),
    "Q6_K": (256, 210, [208]), "IQ2_XXS": (256, 66, [0]), "IQ2_XS": (256, 74, [0]),
    "IQ3_XXS": (256, 98, [0]), "IQ1_S": (256, 50, [0]), "IQ4_NL": (32, 18, [0]),
    "IQ3_S": (256, 110, [0]), "IQ2_S": (256, 82, [0]), "IQ4_XS": (256, 136, [0]),
    "IQ1_M": (256, 56, []), "TQ1_0": (256, 54, [52]), "TQ2_0": (256, 66, [64]),
    "MXFP4": (32, 17, []), "NVFP4": (64, 36, []), "Q1_0": (128, 18, [0]), "Q2_0": (64, 18, [0]),
}
# Formats whose floats these files check beside ggml's own function against the gguf package.
IN_PACKAGE = set(FORMATS) - {"Q1_0", "Q2_0"}


def blocks(name):
    """Random blocks with scales of ordinary size, then edges: zeros, ones, and poisoned scales."""
    length, size, scales = FORMATS[name]
    random = np.random.default_rng(sum(name.encode()))
    count = max(3, 256 // length)
    ordinary = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in scales:
        numbers = (random.standard_normal(count) * 0.02).astype(np.float16)
        ordinary[:, at:at + 2] = numbers.view(np.uint8).reshape(count, 2)
    edges = [np.full(size, byte, np.uint8) for byte in (0x00, 0xFF)]
    for half in (0x7C00, 0xFC00, 0x7E01, 0x0001, 0x83FF) if scales else ():
        edge = ordinary[0].copy()
        for at in scales:
            edge[at:at + 2] = np.array([half], "<u2").view(np.uint8)
        edges.append(edge)
    return np.vstack([ordinary, *edges])


def main(library):
    ggml = ctypes.CDLL(library)
    for name, (length, _, _) in FORMATS.items():
        data = np.ascontiguousarray(blocks(name))
        values = np.zeros(len(data) * length, np.float32)
        family, _, variant = name.partition("_")
        # The C functions are named dequantize_row_q4_K, ..._iq2_xxs, ..._q4_0, ..._mxfp4.
        symbol = name if variant == "K" else name.lower()
        symbol = symbol[0].lower() + symbol[1:]
        function = getattr(ggml, f"dequantize_row_{symbol}")
        function(data.ctypes.data_as(ctypes.c_void_p), values.ctypes.data_as(ctypes.c_void_p),
                 ctypes.c_int64(len(values)))
        if name in IN_PACKAGE:
            kind = gguf.GGMLQuantizationType[name]
            with np.errstate(all="ignore"):
                other = gguf.quants.dequantize(data, kind).reshape(-1)
            same = (values.view(np.uint32) == other.view(np.uint32)) | (np.isnan(values) & np.isnan(other))
            if not same.all():
                bad = np.flatnonzero(~same)
                print(f"{name}: {len(bad)} values differ between ggml and the gguf package, first",
                      bad[0], values[bad[0]], other[bad[0]])
        with open(f"{name}.bin", "wb") as file:
            file.write(data.tobytes())
            file.write(values.astype("<f4").tobytes())


main(sys.argv[1])
