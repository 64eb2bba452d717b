#!/usr/bin/env bash
# sentence-transformers 6.2.0: its trainer takes transformers' `train_sampling_strategy` and goes by another order.
# "sequential" asks for the rows as they are given, "group_by_length" for rows of like lengths together. Its training
# arguments derive from transformers', take both, and both come to the same shuffle: batches are made by its own setting
# `batch_sampler`, whose default draws at random. Nothing is said. So rows sorted on purpose (a curriculum, hard negatives
# side by side, a comparison with another trainer step by step) are trained in an order that nobody asked for.
# Seen on 2026-11-30. Fails if that changes.
#
# What tunelift does: benchmarks/embeddings.py gives that trainer a batch sampler, so that all trainers take the same steps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet sentence-transformers==6.2.0 transformers==5.23.0 torch==2.13.0 \
    datasets==5.2.0 accelerate==1.15.0
HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore - "$folder" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer, Trainer, TrainingArguments

print("sentence-transformers", version("sentence-transformers"), "transformers", version("transformers"))
folder = Path(sys.argv[1])
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(16))]
(folder / "vocab.txt").write_text("\n".join(words))
tokenizer = BertTokenizer(str(folder / "vocab.txt"))
sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
model = BertModel(BertConfig(vocab_size=len(words), **sizes))
for part in (model, tokenizer):
    part.save_pretrained(folder / "bert")
transformer = Transformer(str(folder / "bert"))
embedding = SentenceTransformer(modules=[transformer, Pooling(8)], device="cpu")
rows = Dataset.from_dict({"anchor": [f"w{n}" for n in range(16)], "positive": [f"w{n}" for n in range(16)]})
options = {"output_dir": str(folder / "out"), "per_device_train_batch_size": 4, "report_to": [], "use_cpu": True}


def order(trainer, key):
    return [int(first) for batch in trainer.get_train_dataloader() for first in batch[key][:, 1] - 5]


found = {}
for strategy in ("random", "sequential", "group_by_length"):
    arguments = SentenceTransformerTrainingArguments(train_sampling_strategy=strategy, **options)
    trainer = SentenceTransformerTrainer(
        model=embedding, args=arguments, train_dataset=rows, loss=MultipleNegativesRankingLoss(embedding)
    )
    found[strategy] = order(trainer, "anchor_input_ids")
    print(f"SentenceTransformerTrainer, {strategy}: rows {found[strategy]}")
stock = Trainer(
    model=model,
    args=TrainingArguments(train_sampling_strategy="sequential", **options),
    train_dataset=[{"input_ids": tokenizer(text)["input_ids"]} for text in rows["anchor"]],
)
print(f"transformers' Trainer, sequential: rows {order(stock, 'input_ids')}")
assert order(stock, "input_ids") == list(range(16))
assert found["sequential"] != list(range(16)), "it keeps the order now"
assert found["sequential"] == found["random"] == found["group_by_length"], "the settings differ now"
PY
