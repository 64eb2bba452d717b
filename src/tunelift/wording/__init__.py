"""What was found, as text, tables and Markdown: from plain values, as comparison.json has them."""
