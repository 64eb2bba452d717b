"""OpenAI's own client against the server on a socket: streams, log-probabilities, forms, tools, vectors, errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from chat_families import tokenizer_of
from tiny_models import SIZES, adapted, causal
from tiny_tokenizers import byte_level
from tunelift.core.errors import InputError
from tunelift.model_facts.pooling import pooling_of
from tunelift.serving.app import App
from tunelift.serving.embedding import Embedder, EmbeddingApp, EmbeddingService, Sentences
from tunelift.serving.engine import Engine, Limits
from tunelift.serving.service import Allowed, Named, Service
from tunelift.serving.worker import Worker

openai = pytest.importorskip("openai", reason="the client that the server is written for, of the extra dev")
uvicorn = pytest.importorskip("uvicorn", reason="tunelift serve listens by uvicorn, extra serve")

MESSAGES = [{"role": "user", "content": "the weather?"}]
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Paris", "Bonn"]}}, "required": ["city"]}
SCHEMA |= {"additionalProperties": False}


@contextmanager
def client_of(app: App) -> Iterator[Any]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="secret", max_retries=0, timeout=300) as client:
        yield client
    server.should_exit = True
    thread.join(30)


class Folders:
    """Stands for what loads adapters."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def load(self, name: str, path: str) -> None:
        if path == "broken":
            raise OSError(5, "Input/output error")
        if path != "here":
            raise InputError("There is no such folder.")
        self.service.models = {**self.service.models, name: self.service.named("tuned")}

    def unload(self, name: str) -> None:
        self.service.models = {own: model for own, model in self.service.models.items() if own != name}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    tokenizer = tokenizer_of("qwen2.5")
    model = adapted(causal(vocab_size=len(tokenizer), max_position_embeddings=1024))
    worker = Worker(Engine(model, tokenizer, Limits(rows=8, queue=32, tokens=8192)))
    worker.start()
    models = [Named("base", None, tokenizer, model), Named("tuned", "default", tokenizer, model)]
    service = Service(worker, models, Allowed(new_tokens=200))
    service.adapters = Folders(service)
    with client_of(App(service, "secret")) as found:
        yield found


def ask(client: Any, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "base", "messages": MESSAGES, "max_tokens": 12} | fields)


def test_answers_streams_and_logprobs(client: Any) -> None:
    whole = ask(client, logprobs=True, top_logprobs=3, temperature=0)
    told = whole.choices[0].logprobs.content
    assert len(told) == whole.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 for token in told)
    parts = list(ask(client, temperature=0, stream=True, stream_options={"include_usage": True}, logprobs=True))
    said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert said == whole.choices[0].message.content
    own = [part.choices[0].logprobs for part in parts if part.choices and part.choices[0].logprobs]
    logprobs = [one.logprob for some in own for one in some.content]
    assert logprobs == pytest.approx([one.logprob for one in told], abs=1e-4)
    assert parts[-1].usage.total_tokens == whole.usage.total_tokens
    plain = client.completions.create(model="tuned", prompt="ab", max_tokens=4, temperature=0, logprobs=2)
    assert len(plain.choices[0].logprobs.token_logprobs) == plain.usage.completion_tokens
    scored = client.completions.create(model="base", prompt="abcd", max_tokens=0, echo=True, logprobs=0)
    assert scored.choices[0].logprobs.token_logprobs[0] is None
    assert [model.id for model in client.models.list()] == ["base", "tuned"]


def test_forms(client: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "where", "schema": SCHEMA, "strict": True}}
    said = ask(client, response_format=form, max_tokens=60, seed=3).choices[0]
    assert json.loads(said.message.content)["city"] in ("Paris", "Bonn")
    choice = ask(client, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}).choices[0]
    assert choice.message.content in ("yes", "no")


def test_tools(client: Any) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    forced = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 100, "seed": 1}
    message = ask(client, **forced).choices[0].message
    (made,) = message.tool_calls
    assert json.loads(made.function.arguments)["city"] in ("Paris", "Bonn")
    again = [*MESSAGES, message, {"role": "tool", "tool_call_id": made.id, "content": "rain"}]
    assert ask(client, messages=again, tools=tools).usage.completion_tokens <= 12
    with client.chat.completions.stream(model="base", messages=MESSAGES, **forced) as stream:
        last = stream.get_final_completion().choices[0]
    assert (last.finish_reason, last.message.tool_calls[0].function.name) == ("tool_calls", "weather")
    assert last.message.tool_calls[0].function.arguments == made.function.arguments


def test_errors(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="ghost", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, temperature=-1)
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="at most 200"):
        ask(client, max_tokens=201)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="other").models.list()
    with pytest.raises(openai.NotFoundError, match="There is no /v1/embeddings"):
        client.embeddings.create(model="base", input="a")


def test_adapters_are_loaded_by_vllms_form(client: Any) -> None:
    said = client.post("/load_lora_adapter", body={"lora_name": "new", "lora_path": "here"}, cast_to=str)
    assert "'new' added" in said
    assert client.completions.create(model="new", prompt="ab", max_tokens=2).usage.completion_tokens <= 2
    for body in (
        {"lora_name": "new", "lora_path": "away"},
        {"lora_name": "new"},
        {"lora_name": 3, "lora_path": "here"},
    ):
        with pytest.raises(openai.BadRequestError):
            client.post("/load_lora_adapter", body=body, cast_to=str)
    with pytest.raises(openai.InternalServerError, match="Input/output error"):  # who asks has not gone
        client.post("/load_lora_adapter", body={"lora_name": "newer", "lora_path": "broken"}, cast_to=str)
    client.post("/unload_lora_adapter", body={"lora_name": "new"}, cast_to=str)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="new", prompt="ab", max_tokens=2)


@pytest.fixture(scope="module")
def vectors() -> Iterator[tuple[Any, Embedder]]:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    model, tokenizer = AutoModel.from_config(AutoConfig.for_model("bert", **SIZES)).eval(), byte_level()
    embedder = Embedder(model, tokenizer)
    service = EmbeddingService(embedder, [Sentences("base", None, tokenizer, 32)], Allowed())
    with client_of(EmbeddingApp(service, "secret")) as found:
        yield found, embedder


def test_vectors_are_the_models_own(vectors: tuple[Any, Embedder]) -> None:
    client, embedder = vectors
    texts = ["a cat", "the mat on which it sat, and much more of it", "x" * 99]
    said = client.embeddings.create(model="base", input=texts)  # in base64, as the client asks unless told otherwise
    assert [one.index for one in said.data] == [0, 1, 2]
    for text, one in zip(texts, said.data, strict=True):
        ids = torch.tensor([byte_level()(text)["input_ids"][:32]])
        with torch.no_grad():
            states = embedder.model(ids).last_hidden_state
        own = pooling_of(embedder.model)(states, torch.ones_like(ids))[0]
        assert one.embedding == pytest.approx(own.tolist(), abs=1e-4)
    floats = client.embeddings.create(model="base", input=byte_level()("a cat")["input_ids"], encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(said.data[0].embedding, abs=1e-5)
    assert said.usage.prompt_tokens > 32
    wrong: list[dict[str, Any]] = [
        {"input": []}, {"input": ""}, {"input": [[1], "a"]}, {"input": [9999]}, {"input": [1] * 33},
        {"input": "a", "dimensions": 3}, {"input": "a", "encoding_format": "hex"}, {"input": ["a"] * 2049},
    ]  # fmt: skip
    for fields in wrong:
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="base", **fields)
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.embeddings.create(model="ghost", input="a")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="base", prompt="a")
    assert embedder.outstanding == 0
