"""layer.py LAYER FILE OUT: reads FILE by a layer of volatility3.

LAYER is lime, elf (program headers), xen (the sections of Xen's dump-core) or raw. OUT gets each row of addresses that the layer has:
its first address and its length, two little-endian words of 64 bits, and its bytes. For raw, which has no rows, they come
from standard input, an address and a length a line.
"""

import struct
import sys
from urllib.request import pathname2url

from volatility3.framework import contexts
from volatility3.framework.layers import elf, lime, physical, xen

kind, path, out = sys.argv[1:]
context = contexts.Context()
context.config["base.location"] = "file:" + pathname2url(path)
layer = physical.FileLayer(context, "base", "base")
context.add_layer(layer)
if kind == "raw":
    rows = [tuple(map(int, line.split())) for line in sys.stdin]
else:
    context.config["top.base_layer"] = "base"
    layer = {"lime": lime.LimeLayer, "elf": elf.Elf64Layer, "xen": xen.XenCoreDumpLayer}[kind](context, "top", "top")
    context.add_layer(layer)
    mapping = layer.mapping(0, layer.maximum_address + 1, ignore_errors=True)
    rows = [(address, length) for address, length, *_ in mapping]
with open(out, "wb") as file:
    for address, length in rows:
        file.write(struct.pack("<QQ", address, length))
        file.write(layer.read(address, length))
