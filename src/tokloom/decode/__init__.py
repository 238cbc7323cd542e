"""The interfaces of decoding (prediction, drafter, constraint, search, denoiser) and what their methods share.

Knows nothing of the loop that uses them, but for the types that it is handed.
"""
