#!/usr/bin/env bash
# mlx-lm 0.32.2: its training loss goes one place beyond each row, and so teaches every row to be followed by token 0.
# Batches are padded with zeros to one more than a multiple of 32, so that behind each row, the longest too, a zero lies.
# `default_loss` counts the places up to and with the row's length, of which the last has that zero as its target. The loss
# that is reported and the count of tokens hold it; a model that is tuned so learns to say token 0 (often "<unk>", "<pad>"
# or "!") behind the token that ends an answer. Of answers of a few tokens it is a large share of what is learned.
# Seen on 2026-11-30. Fails if that changes.
#
# What tunelift does: where mlx-lm trains beside it in benchmarks/train.py, lengths are one shorter, so that all learn the
# same tokens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2
HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import mlx.core as mx
from mlx_lm.tuner.trainer import default_loss, iterate_batches

print("mlx-lm", version("mlx-lm"), "mlx", version("mlx"))
rows = [([5, 6, 7, 8, 9], 2), ([5, 6, 7], 2)]  # ids, and how many of them are the prompt
batch, lengths = next(iterate_batches(rows, batch_size=2, max_seq_length=64))
answers = sum(len(ids) - prompt for ids, prompt in rows)


def model(inputs, of_zero=0.0):
    """Logits of ten tokens, all alike but for that of token 0."""
    logits = mx.zeros((*inputs.shape, 10))
    logits[..., 0] = of_zero
    return logits


loss, tokens = default_loss(model, batch, lengths)
print(f"rows of 5 and 3 tokens in a batch of {batch.shape}: {int(tokens)} targets, where the answers have {answers} tokens")
wanted = [ids[stop] for ids, (_, stop) in zip(batch.tolist(), lengths.tolist())]
print(f"the target behind each row: {wanted}")
likely, _ = default_loss(lambda inputs: model(inputs, 2.0), batch, lengths)
right, _ = default_loss(lambda inputs: model(inputs, 2.0), batch, lengths - mx.array([[0, 1]]))
print(f"loss where token 0 is likelier everywhere: {float(likely):.3f}; without the places behind the rows: {float(right):.3f}")
assert int(tokens) == answers + len(rows), "the places behind the rows are left out now"
assert wanted == [0, 0] and float(likely) < float(right)
PY
