"""One request's life, several at once, and searches.

Knows interfaces, never a method; a test says so.
"""
