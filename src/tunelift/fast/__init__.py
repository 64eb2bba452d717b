"""What makes training and scoring fast on a stock transformers or peft model, usable without the rest of tunelift."""
