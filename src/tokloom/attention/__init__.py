"""The attention function over the KV store, and the interface and shared parts of attention policies.

Knows nothing of requests, drafts or text, and no single method.
"""
