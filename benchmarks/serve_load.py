"""The server under load: many clients over several adapters, some of whom break off, dawdle or send nonsense; and fuzz.

    python benchmarks/serve_load.py [--minutes 10] [--clients 200] [--adapters 8] [--fuzz 200000] [--model MODEL]

Without --model a tiny one is made. Each prompt is first asked alone; under load every whole answer must be that one,
word for word, nothing may get lost, and the server's memory must not grow. Fuzzed bodies must be answered by 200, 400,
404 or 413, without a traceback. It sends to this machine alone and stops by itself; exit code 1 says that something did
not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

WORDS = "the cat sat on a mat and looked at rain while nobody said what it was".split()  # noqa: SIM905
TENTH = ("break off", "dawdle", "nonsense")
FINE = {200, 400, 404, 413}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--fuzz", type=int, default=200_000)
    parser.add_argument("--model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = made(Path(scratch), options.model, options.adapters)
        log = Path(scratch, "log")
        named = [f"{folder.name}={folder}" for folder in folders[1:]]
        command = [sys.executable, "-m", "tunelift", "serve", "--port", "0", "--name", "base", "--dtype", "float32"]
        with log.open("w") as err:
            command += ["--model", str(folders[0]), "--queue", str(options.clients), *named]
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not address:
                sys.exit(log.read_text())
            port = int(address.rpartition(":")[2].partition("/")[0])
            held = asyncio.run(loaded(port, server.pid, options))
        finally:
            server.terminate()
            server.wait(60)
        traced = "Traceback" in log.read_text()
        print(f"tracebacks in the server's log: {'yes' if traced else 'none'}")
    sys.exit(0 if held and not traced else 1)


def made(scratch: Path, model: str | None, adapters: int) -> list[Path]:
    """Make adapters, and a tiny model where none is named; return its folder and theirs."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = Path(model) if model else scratch / "model"
    if not model:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        import tiny_models

        tiny_models.causal(max_position_embeddings=1024).save_pretrained(folder)
        tiny_models.byte_level().save_pretrained(folder)
    found = [folder]
    for number in range(adapters):
        config = LoraConfig(target_modules="all-linear", r=4, task_type="CAUSAL_LM", init_lora_weights=False)
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
        adapted.save_pretrained(scratch / f"a{number}")
        found.append(scratch / f"a{number}")
    return found


async def asked(port: int, path: str, raw: bytes, how: str = "") -> tuple[int, bytes]:
    """Return status and body of an answer; status 0 where the client broke off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode())
        for at in range(0, len(raw), 20) if how == "dawdle" else [0]:
            writer.write(raw[at : at + 20] if how == "dawdle" else raw)
            await writer.drain()
            await asyncio.sleep(0.2 if how == "dawdle" else 0)
        if how == "break off":
            await asyncio.wait_for(reader.read(1), 300)
            return 0, b""
        whole = await asyncio.wait_for(reader.read(), 300)
        return int(whole[9:12]), whole.partition(b"\r\n\r\n")[2]
    finally:
        writer.close()


def body_of(model: str, prompt: str, **more: Any) -> bytes:
    fields = {"model": model, "prompt": prompt, "max_tokens": 24, "temperature": 0}
    return json.dumps(fields | more).encode()


async def loaded(port: int, pid: int, options: argparse.Namespace) -> bool:
    models = ["base", *(f"a{number}" for number in range(options.adapters))]
    own = random.Random(0)
    prompts = [" ".join(own.choices(WORDS, k=own.randint(2, 60))) for _ in range(6)]
    wanted = {}
    for model in models:
        for prompt in prompts:
            status, raw = await asked(port, "/v1/completions", body_of(model, prompt))
            assert status == 200, raw
            wanted[model, prompt] = json.loads(raw)["choices"][0]["text"]
    counts, memory, end = Counter[str](), [rss(pid)], time.monotonic() + 60 * options.minutes

    async def client(number: int) -> None:
        dice = random.Random(number)
        while time.monotonic() < end:
            model, prompt = dice.choice(models), dice.choice(prompts)
            how = dice.choice(TENTH) if dice.random() < 0.1 else ""
            raw = fuzzed(dice) if how == "nonsense" else body_of(model, prompt, stream=how == "break off")
            try:
                status, body = await asked(port, "/v1/completions", raw, how)
            except (OSError, TimeoutError) as error:
                counts[f"lost: {type(error).__name__}"] += 1
                continue
            if how in ("break off", "nonsense"):
                counts[how if how == "break off" or status in FINE | {429, 503} else f"wrong: {status}"] += 1
            elif status == 200:
                right = json.loads(body)["choices"][0]["text"] == wanted[model, prompt]
                counts["right" if right else "wrong: another answer"] += 1
            else:
                counts["refused, full" if status in (429, 503) else f"wrong: {status}"] += 1
                await asyncio.sleep(0.5)

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(min(5.0, max(0.1, end - time.monotonic())))
            memory.append(rss(pid))

    await asyncio.gather(watch(), *(client(number) for number in range(options.clients)))
    settled = memory[len(memory) // 3 :]
    grown = settled[-1] / settled[0] - 1
    print(f"{options.clients} clients, {options.minutes:g} minutes: {dict(counts)}")
    print(f"memory: {settled[0] / 2**20:.0f} MiB a third in, {settled[-1] / 2**20:.0f} at the end ({grown:+.1%})")
    statuses = Counter[int]()
    for start in range(0, options.fuzz, 32):
        dice = random.Random(start)
        paths = ("/v1/completions", "/v1/chat/completions", "/v1/systemone")
        some = [asked(port, dice.choice(paths), fuzzed(dice)) for _ in range(min(32, options.fuzz - start))]
        statuses.update(status for status, _ in await asyncio.gather(*some))
    print(f"{options.fuzz} fuzzed bodies: {dict(sorted(statuses.items()))}")
    _, raw = await asked(port, "/v1/completions", body_of("base", prompts[0]))
    still = json.loads(raw)["choices"][0]["text"] == wanted["base", prompts[0]]
    print(f"afterwards it answers as before: {'yes' if still else 'no'}")
    wrong = any(name.startswith(("wrong", "lost")) for name in counts) or not statuses.keys() <= FINE
    return still and not wrong and grown < 0.05


def fuzzed(dice: random.Random) -> bytes:
    """Return a body that is one of ours with something changed, or no body at all."""
    said: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}]} if dice.random() < 0.3 else {"prompt": "a"}
    fields: dict[str, Any] = {"model": "base", "max_tokens": 2} | said
    names = [*fields, "temperature", "top_p", "n", "stop", "logprobs", "logit_bias", "stream", "tools", "tool_choice"]
    names += ["response_format", "structured_outputs", "seed", "state", "questions", "echo", "chat_template_kwargs"]
    values = [None, True, -1, 2**70, 1e308, "", "\u0000", "x" * 3000, [], {}, [[]], {"type": "json_object"}, [1, "a"]]
    values += [{"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}, {"regex": "(a*)*b"}, ["user"] * 40]
    for _ in range(dice.randint(0, 4)):
        fields[dice.choice(names)] = dice.choice(values)
    if dice.random() < 0.2:
        fields.pop(dice.choice([*fields]))
    raw = bytearray(json.dumps(fields).encode())
    for _ in range(dice.choice([0, 0, 0, 1, 3])):
        raw[dice.randrange(len(raw))] = dice.randrange(256)
    return bytes(raw[: dice.randrange(len(raw))] if dice.random() < 0.05 else raw)


def rss(pid: int) -> int:
    """Return the bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
