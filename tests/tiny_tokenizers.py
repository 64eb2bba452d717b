"""Small real tokenizers, trained in memory, and chat templates with and without the property that masks need."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT_WITH_BOS = "<s>" + CHAT
# Drops what stands before </think> in every answer but the last, as reasoning models' templates do.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Begins every answer differently from what the generation prompt says.
THINKING_PROMPT = CHAT.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
# Ends no turn with a token, so that only EOS could tell the model to stop.
WITHOUT_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT

TEXT = ["the cat sat on the mat\nLabel: sports business sportsman", "user assistant system what is it? it is a cat."]


@cache
def byte_level(bos: bool = True, eos: bool = True, template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; with `bos` it puts <s> before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return _wrapped(tokenizer, bos, eos, template)


@cache
def knows_pairs() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that puts <s> before two texts too, and nothing between them."""
    tokenizer = deepcopy(byte_level())
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


@cache
def merging() -> PreTrainedTokenizerFast:
    """A tokenizer without a pre-tokenizer, whose merges cross the border: "ab" + "c" is one token "abc"."""
    vocabulary = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "ab": 5, "abc": 6}
    return _wrapped(Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "c")])), False, True, None)


@cache
def bert_like() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that puts [CLS] before and [SEP] behind every text."""
    words = {word: number for number, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]")


def _wrapped(tokenizer: Tokenizer, bos: bool, eos: bool, template: str | None) -> PreTrainedTokenizerFast:
    names = {"bos_token": "<s>"} if bos else {}
    if eos:
        names["eos_token"] = "</s>"
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, extra_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    wrapped.chat_template = template
    return wrapped
