"""What a notebook shows and hands to the paper: figures, tables, sentences."""
