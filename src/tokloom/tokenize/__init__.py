"""What a tokenizer's vocabulary, merges and pre-tokenizer say about bytes and texts.

Knows nothing of models.
"""
