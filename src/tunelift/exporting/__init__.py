"""What was tuned, as other programs have it: written whole or not at all, with what it was made of, and proved."""
