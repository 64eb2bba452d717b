"""One row per item: log-likelihoods, ranked labels, generated answers, and the metrics made from them."""
