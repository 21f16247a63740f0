"""The packet filter's rules as the library of ``nft`` prints them, without a process.

The program writes them in pieces of a few characters, 12,000 system calls for the rules of one network.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache

_LOCK = threading.Lock()


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.argtypes = (ctypes.c_uint32,)
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_free.argtypes = library.nft_ctx_buffer_output.argtypes = (ctypes.c_void_p,)
    library.nft_run_cmd_from_buffer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    library.nft_ctx_get_output_buffer.argtypes = (ctypes.c_void_p,)
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    return library


def ruleset() -> str:
    """What ``nft list ruleset`` prints in the network namespace of the calling thread."""
    with _LOCK:
        context = _library().nft_ctx_new(0)
        try:
            _library().nft_ctx_buffer_output(context)
            failed = _library().nft_run_cmd_from_buffer(context, b"list ruleset")
            assert not failed
            text: bytes = _library().nft_ctx_get_output_buffer(context)
            return text.decode()
        finally:
            _library().nft_ctx_free(context)
