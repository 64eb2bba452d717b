"""Chat templates of many families, written anew and small with the behaviour of the real ones, and a table of them.

python tests/chat_families.py > docs/templates.md
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from tiny_tokenizers import byte_level
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.conversations import as_answer, as_prompt, conversation_of
from tunelift.data.render import Renderer, Tokens

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Family:
    """A template's behaviour in words, its special tokens (BOS and EOS first), and tokens that are merely added."""

    does: str
    bos: str | None
    eos: str | None
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


CHATML = ("<|im_start|>", "<|im_end|>")
THINK, TOOLS = ("<think>", "</think>"), ("<tool_call>", "</tool_call>")
DEEPSEEK = tuple(
    f"<|{name}|>"
    for name in (
        *("User", "Assistant", "tool_calls_begin", "tool_call_begin", "tool_sep", "tool_call_end", "tool_calls_end"),
        *("tool_output_begin", "tool_output_end"),
    )
)
MISTRAL = ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]")
FAMILIES = {
    "qwen2.5": Family("writes a system message of its own", None, "<|endoftext|>", CHATML, TOOLS),
    "qwen3": Family(
        "adds an empty block of reasoning to the last answer, drops earlier reasoning",
        *(None, "<|im_end|>", (*CHATML, "<|endoftext|>"), (*THINK, *TOOLS)),
    ),
    "qwen3.5": Family(
        "the prompt begins reasoning; strips; refuses a later system message", None, "<|im_end|>", CHATML, THINK + TOOLS
    ),
    "gpt-oss": Family(
        "adds a channel, drops earlier reasoning and later system messages, ends the last turn otherwise; dates",
        *(None, "<|return|>", ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>")),
    ),
    "phi-3": Family(
        "writes EOS behind a conversation that no prompt follows",
        "<s>",
        "<|endoftext|>",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "glm-4.5": Family(
        "ends no turn, adds a block of reasoning, drops earlier reasoning; strips",
        None,
        "<|endoftext|>",
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        THINK + TOOLS,
    ),
    "nemotron-3": Family(
        "the prompt begins reasoning that the conversation has closed; drops earlier reasoning; strips",
        *("<s>", "<|im_end|>", CHATML, THINK + TOOLS),
    ),
    "deepseek-v3.2": Family(
        "the prompt ends with a tag that the conversation lacks; cuts reasoning out; calls are texts",
        *("<s>", "</s>", DEEPSEEK, THINK),
    ),
    "deepseek-r1": Family(
        "the prompt begins reasoning; cuts reasoning out of every answer; calls are texts",
        "<s>",
        "</s>",
        DEEPSEEK,
        THINK,
    ),
    "llama-3.2": Family(
        "dates; strips; writes a tool's answer as JSON",
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"),
    ),
    "gemma-3": Family(
        "puts the system message into the first question; strips; refuses two questions in a row",
        "<bos>",
        "<eos>",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "gemma-4": Family(
        "the prompt ends with a closed channel that the conversation lacks; drops reasoning; strips",
        "<bos>",
        "<eos>",
        (
            "<|turn>",
            "<turn|>",
            "<|channel>",
            "<channel|>",
            "<|tool>",
            "<tool|>",
            "<|tool_call>",
            "<tool_call|>",
            "<|tool_response>",
            "<tool_response|>",
        ),
    ),
    "mistral-7b": Family(
        "puts the system message into the last question; refuses two questions in a row; wants ids of calls",
        *("<s>", "</s>", (*MISTRAL, "[/TOOL_RESULTS]")),
    ),
    "mistral-nemo": Family("drops a system message; refuses two questions in a row", "<s>", "</s>", MISTRAL),
    "mistral-small-3.2": Family(
        "writes a dated system message of its own; marks reasoning with tokens of its own",
        "<s>",
        "</s>",
        (*MISTRAL, "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]", "[ARGS]"),
    ),
    "cohere-2": Family(
        "strips; refuses two questions in a row",
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
        ("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    ),
    "smollm3": Family(
        "dates; drops later system messages; cuts switches out of the system message", None, "<|im_end|>", CHATML, THINK
    ),
    "granite-3.3": Family(
        "dates; a list of calls behind a token",
        None,
        "<|end_of_text|>",
        ("<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"),
    ),
    "lfm-2.5": Family(
        "marks what is generated; drops earlier reasoning",
        "<|startoftext|>",
        "<|im_end|>",
        (*CHATML, "<|tool_call_start|>", "<|tool_call_end|>"),
        THINK,
    ),
    "vicuna": Family("writes roles as words", "<s>", "</s>"),
    "vicuna, no EOS": Family("writes roles as words, and the tokenizer has no EOS", "<s>", None),
}


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """Return a small byte-level tokenizer with a family's tokens and template."""
    family = FAMILIES[name]
    backend = byte_level(bos=False, eos=False).backend_tokenizer.to_str()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend))
    names = {"bos_token": family.bos, "eos_token": family.eos}
    tokenizer.add_special_tokens({key: value for key, value in names.items() if value})
    tokenizer.add_tokens([AddedToken(token, special=True) for token in family.special])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in family.added])
    tokenizer.chat_template = (TEMPLATES / f"{name.partition(',')[0]}.jinja").read_text()
    return tokenizer


def user(content: str, **keys: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **keys}


def assistant(content: str, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **keys}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


TOOL = {"name": "weather", "description": "Tell it.", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "call00001", "function": {"name": "weather", "arguments": {"city": 'Paris "nord"', "days": 2}}}
SPELT = "the token [INST] <s> </s> <|im_end|> <|end|> <|eot_id|> is text"
CASES: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [user("what is it?"), assistant(" it is a cat. ")]},
    "several": {"messages": [user("what?"), assistant("a cat."), user("and?"), assistant("the mat")]},
    "system": {"messages": [system("be brief"), user("what is it?"), assistant("a cat")]},
    "later system": {
        "messages": [user("what?"), assistant("a cat"), system("be brief"), user("and?"), assistant("mat")]
    },
    "tools": {
        "messages": [
            user("the weather?"),
            assistant("", tool_calls=[CALL]),
            {"role": "tool", "content": '{"sky": "blue"}', "tool_call_id": "call00001", "name": "weather"},
            assistant("it is blue"),
        ],
        "tools": [TOOL],
    },
    "a call": {"messages": [user("the weather?"), assistant("", tool_calls=[CALL])], "tools": [TOOL]},
    "reasoning": {"messages": [user("why?"), assistant("a cat", reasoning_content="it purrs")]},
    "reasoning inline": {"messages": [user("how?"), assistant("<think>\nit purrs\n</think>\n\na cat")]},
    "earlier reasoning": {
        "messages": [user("what?"), assistant("<think>\nhm\n</think>\n\na cat"), user("and?"), assistant("the mat")]
    },
    "no thinking": {"messages": [user("where?"), assistant("a cat")], "template_arguments": {"enable_thinking": False}},
    "two questions": {"messages": [user("what?"), user("really?"), assistant("a cat")]},
    "question last": {"messages": [user("what?"), assistant("a cat"), user("and?")]},
    "an answer not learned": {
        "messages": [user("when?"), assistant("a cat", train=False), user("and?"), assistant("the mat")]
    },
    "the last not learned": {
        "messages": [user("who?"), assistant("a cat"), user("and?"), assistant("the mat", weight=0)]
    },
    "special tokens": {"messages": [user(SPELT), assistant(SPELT)]},
}


def example_of(case: Mapping[str, Any], row: str = "7", **keys: Any) -> Example:
    """Return the example that a row with these messages makes."""
    conversation = conversation_of(
        case["messages"], f"row {row}", **{**{k: case[k] for k in case if k != "messages"}, **keys}
    )
    return Example(row, as_prompt(conversation), as_answer(conversation.messages[-1]), conversation)


def learned(renderer: Renderer, tokens: Tokens) -> list[str]:
    """Return the texts of the runs of tokens in the loss."""
    runs: list[list[int]] = []
    for at, (token, counts) in enumerate(zip(tokens.ids, tokens.in_loss, strict=True)):
        if counts and (at == 0 or not tokens.in_loss[at - 1]):
            runs.append([])
        if counts:
            runs[-1].append(token)
    return [renderer.tokenizer.decode(run) for run in runs]


def outcome(name: str, case: Mapping[str, Any]) -> str:
    """Return what becomes of a case: the runs in the loss, or why the row is refused."""
    try:
        renderer = Renderer(tokenizer_of(name), 1000)
        rows, _ = renderer.render_rows([example_of(case)])
    except InputError as error:
        return "refused: " + error.problems[0]
    return " / ".join("".join(f"`{run}`" for run in learned(renderer, row)) for row in rows)


INTRODUCTION = """# What is learned of a conversation, by chat template

Printed by `python tests/chat_families.py > docs/templates.md`; a test keeps it true. The templates are small ones,
written anew with the behaviour of each family's own (`tests/templates`). Another release of a family may do otherwise:
`tunelift data` shows what your model's does.

What stands in the column is in the loss: the answers, what the template writes before them that is not in the prompt,
and the token that ends the turn. A slash is between rows: where a template writes earlier turns otherwise once messages
follow, each answer has a row of its own (`data.turns`). Metrics see the answer alone, on both sides. What a template
would leave out or rewrite is refused, with the row."""


def table() -> str:
    """Return the page."""
    lines = [INTRODUCTION]
    for name, family in FAMILIES.items():
        lines += ["", f"## {name}: {family.does}", "", "| row | learned |", "|---|---|"]
        for title, case in CASES.items():
            said = outcome(name, case).replace("\n", "⏎").replace("|", "\\|")
            lines.append(f"| {title} | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
