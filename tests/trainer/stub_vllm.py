"""A server that answers as vLLM does, without a model: its completions follow from seed and weights' name alone."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StubVllm(ThreadingHTTPServer):
    """Runs in threads of the test; what a test changes takes effect with the next request."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.weights = "default"
        self.logprobs_mode, self.version, self.world_size = "processed_logprobs", "0.32.0", 1
        self.statuses: dict[str, int] = {}
        """By route: what is answered in place of the real thing."""
        self.dies_at: int | None = None
        """Completions after which connections are closed without an answer."""
        self.hangs = threading.Event()
        self.hanging_route: str | None = None
        self.backend, self.resets_cache = "files", True
        self.updating = False
        self.calls: list[tuple[str, Any]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def completions(self) -> list[Any]:
        return [body for route, body in self.calls if route == "/inference/v1/generate"]

    def work(self, route: str, body: Any) -> None:
        """What its engine does before it answers. An error is HTTP 500."""
        if self.updating and route in ("/start_weight_update", "/shutdown_weight_transfer_engine"):
            raise RuntimeError("an update is open")
        if route in ("/start_weight_update", "/finish_weight_update"):
            self.updating = route == "/start_weight_update"
        if route == "/update_weight_version":
            self.weights = body["new_version"]

    def logprob(self) -> float:
        """Of every token of a prompt."""
        return -1.0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients of these tests go away as they like."""


class _Handler(BaseHTTPRequestHandler):
    server: StubVllm

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "null"))

    def _serve(self, body: Any) -> None:
        stub, route = self.server, self.path.split("?")[0]
        stub.calls.append((route, body))
        if stub.hangs.is_set() or route == stub.hanging_route:
            threading.Event().wait(60)
        if stub.dies_at is not None and len(stub.completions) > stub.dies_at:
            stub.statuses["/weight_info"] = 503
            self.close_connection = True
            return
        status = stub.statuses.get(route, 200)
        if status == 200:
            try:
                stub.work(route, body)
            except RuntimeError:
                status = 500
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(self._answer(route, body) if status == 200 else {"error": "stub"}).encode())

    def _answer(self, route: str, body: Any) -> Any:
        stub = self.server
        config = {"logprobs_mode": stub.logprobs_mode, "max_model_len": 64}
        answers: dict[str, Any] = {
            "/version": {"version": stub.version},
            "/weight_info": {"weight_version": stub.weights},
            "/get_world_size": {"world_size": stub.world_size},
            "/reset_prefix_cache": {"success": stub.resets_cache},
            "/server_info": {
                "vllm_config": {"model_config": config, "weight_transfer_config": {"backend": stub.backend}}
            },
        }
        return self._completion(body) if route == "/inference/v1/generate" else answers.get(route, {})

    def _completion(self, body: Any) -> Any:
        params = body["sampling_params"]
        token = 40 + params.get("seed", 0) % 7
        ids = [token, 1]
        choice = {
            "token_ids": ids,
            "finish_reason": "stop",
            "logprobs": {"content": [{"token_id": i, "logprob": -0.5} for i in ids]},
            "weight_versions": [{"version": self.server.weights, "start": 0, "end": 2}],
        }
        told = [None, *({str(i): {"logprob": self.server.logprob()}} for i in body["token_ids"][1:])]
        return {"choices": [choice], "prompt_logprobs": told if "prompt_logprobs" in params else None}
