"""The interface of context selectors, the reader of documents, and retrieval over their spans.

Knows nothing of the model but its token counts.
"""
