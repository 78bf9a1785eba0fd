"""One llama.cpp server in a process of its own, from the ``xllamacpp`` wheel.

Belongs here: a program that binds the given host and port, serves one GGUF file and ends on SIGTERM; it
imports nothing of ours. Does not belong here: choosing its arguments (``llamacpp``), watching it
(``launch``).

Exit code 98 (EADDRINUSE): the port is taken; 1: llama.cpp could not start (its own lines above say why).
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys

# llama.cpp keeps whole prompt states in host memory, 8 GiB by default; a shared machine cannot give it that.
PROMPT_CACHE_MIB = 256
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
FLASH_ATTENTION = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}


def port_is_free(host: str, port: int) -> bool:
    """Whether *host*:*port* can be bound now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; ``--ctx-per-slot`` in tokens."""
    parser = argparse.ArgumentParser(
        prog="llamacpp_server", description="Serve one GGUF file with llama.cpp."
    )
    parser.add_argument("--model", required=True, help="path of the .gguf file")
    parser.add_argument("--alias", required=True, help="model name in requests and answers")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--parallel", type=int, default=4, help="slots: requests decoded at the same time")
    parser.add_argument("--ctx-per-slot", type=int, default=2048, help="tokens of context of one slot")
    parser.add_argument(
        "--threads", type=int, default=1, help="more than the free cores is far slower, not faster"
    )
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--ubatch-size", type=int, default=512)
    parser.add_argument("--cache-type", choices=KV_TYPES, default="f16", help="type of the KV cache")
    parser.add_argument("--flash-attn", choices=tuple(FLASH_ATTENTION), default="auto")
    parser.add_argument("--prefix-caching", choices=("on", "off"), default="on")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM; see the module's text for the exit codes."""
    options = parse(arguments)
    if not port_is_free(options.host, options.port):
        print(f"Port {options.port} on {options.host} is already in use.", file=sys.stderr)
        return errno.EADDRINUSE
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # llama.cpp's own shutdown waits for its requests
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.parallel
    # Every request holds a thread until it is answered; with the default of a few more than slots, /metrics and
    # /health wait behind queued requests.
    params.n_threads_http = max(64, 4 * options.parallel)
    params.n_ctx = options.parallel * options.ctx_per_slot
    params.n_batch = options.batch_size
    params.n_ubatch = options.ubatch_size
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.fit_params = False  # it would shrink the context to fit the memory: not what the cell says
    params.endpoint_metrics = True
    params.ui = False
    params.cache_prompt = options.prefix_caching == "on"
    params.cache_ram_mib = PROMPT_CACHE_MIB if params.cache_prompt else 0
    kv_type = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type.upper()}")
    params.cache_type_k = params.cache_type_v = kv_type
    flash = FLASH_ATTENTION[options.flash_attn]
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}")
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        print(f"llama.cpp could not start: {error}", file=sys.stderr)
        return 1
    print("listening", server.listening_address, flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
