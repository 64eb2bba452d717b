"""What each adapter learned, by the vectors that sentence-transformers makes with it.

Of questions with labels: the ndcg@10 of each among all others. Of scored pairs: Spearman's correlation of cosines and
scores on resamples of them, the same for every adapter. A list for each adapter of a setting.
"""

from __future__ import annotations

from typing import Any

from steps import read_job, read_rows, write_result


def main() -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    job = read_job()
    rows = read_rows(job)
    values: dict[str, list[list[float]]] = {name: [] for name in job["adapters"]}
    for name, adapter in [(name, own) for name, some in job["adapters"].items() for own in some]:
        torch.manual_seed(0)
        model = SentenceTransformer(rows["model"], device="cpu")
        if adapter is not None:
            model.load_adapter(adapter)
        scored = len(rows["test"][0]) == 3
        values[name].append(correlations(model, rows["test"]) if scored else found(model, rows["test"]))
    write_result(values=values)


def vectors(model: Any, texts: list[str]) -> Any:
    return model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


def found(model: Any, rows: list[list[str]]) -> list[float]:
    import numpy as np

    texts, labels = [text for text, _ in rows], np.array([label for _, label in rows])
    nearness = (made := vectors(model, texts)) @ made.T
    np.fill_diagonal(nearness, -np.inf)
    gains = 1 / np.log2(np.arange(2, 12))
    values = []
    for i, near in enumerate(nearness):
        relevant = int((labels == labels[i]).sum()) - 1
        if relevant:
            right = labels[np.argsort(-near, kind="stable")[:10]] == labels[i]
            values.append(float((right * gains[: len(right)]).sum() / gains[: min(relevant, 10)].sum()))
    return values


def correlations(model: Any, rows: list[list[Any]]) -> list[float]:
    import numpy as np
    from scipy.stats import spearmanr

    first, second = (vectors(model, [row[side] for row in rows]) for side in (0, 1))
    cosines, scores = (first * second).sum(axis=1), np.array([row[2] for row in rows])
    draw = np.random.default_rng(0)
    some = (draw.integers(0, len(rows), len(rows)) for _ in range(300))
    return [float(spearmanr(cosines[chosen], scores[chosen]).statistic) for chosen in some]


if __name__ == "__main__":
    main()
