"""Files and the Hub to rows, rows to examples, examples to tokens; splits by role and group, duplicates."""
