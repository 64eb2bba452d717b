"""`tunelift serve`: models made ready, proved, and served until the process is asked to stop."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.config.schema import ModelSection
from tunelift.core import progress
from tunelift.core.errors import InputError, listed
from tunelift.pipeline.embedding import are_sentences, embedding_service
from tunelift.pipeline.loader import Loader
from tunelift.pipeline.proving import prove
from tunelift.pipeline.served import ready, sources_of
from tunelift.serving.app import App
from tunelift.serving.embedding import EmbeddingApp
from tunelift.serving.engine import Limits
from tunelift.serving.service import Allowed, Service

GRACE_SECONDS = 30


def serve_stage(
    section: ModelSection,
    folders: Sequence[tuple[str | None, str]],
    token: str | None,
    options: Mapping[str, Any],
) -> None:
    """Serve a base and the adapters of folders until a signal; raise InputError before anything listens.

    `options` are those of the command: host, port, name, rows, queue, kept_tokens, most_new_tokens, most_bytes,
    seconds, adapters_from and embeddings.
    """
    uvicorn = _uvicorn()
    sources = sources_of(folders)
    limits = Limits(options["rows"], options["queue"], options["kept_tokens"])
    allowed = Allowed(options["most_bytes"], options["most_new_tokens"], options["seconds"])
    roots = [Path(root) for root in options["adapters_from"]]
    if options["embeddings"] or are_sentences(sources):
        if roots:
            raise InputError("Adapters of a sentence model are loaded at the start.", fix="Leave --adapters-from out.")
        vectors = embedding_service(section, sources, options["name"], limits.queue, allowed)
        return _serve(uvicorn, EmbeddingApp(vectors, token), options)
    with ready(section, sources, limits, options["name"]) as found:
        for proved in prove(found):
            progress.note(f"proof: {proved}")
        unproved = [source.name for source in sources if source.run is None]
        if unproved:
            progress.note(f"proof: none of {listed(unproved)}, which no run here measured")
        service = Service(found.worker, found.models, allowed)
        service.adapters = Loader(found, service, roots) if roots else None
        _serve(uvicorn, App(service, token), options)


def _serve(uvicorn: Any, app: App, options: Mapping[str, Any]) -> None:
    """Listen until a signal."""
    config = uvicorn.Config(
        app, lifespan="on", ws="none", access_log=False, log_level="warning", server_header=False,
        limit_concurrency=64 + 2 * (options["rows"] + options["queue"]), timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    with _listening(options["host"], options["port"]) as listener:
        host = f"[{options['host']}]" if ":" in options["host"] else options["host"]
        progress.note(f"serving {listed(app.service.models)}")
        print(f"http://{host}:{listener.getsockname()[1]}/v1", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise InputError where the address is taken or none of this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise InputError(f"{host}, port {port}, cannot be listened at: {error}.", fix="Take another --port.") from error


def _uvicorn() -> Any:
    try:
        import uvicorn
    except ImportError as error:
        raise InputError(
            "Serving needs uvicorn, which is not installed.", fix="pip install 'tunelift[serve]'"
        ) from error
    return uvicorn
