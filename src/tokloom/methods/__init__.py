"""The catalogue: one method a file, named by the file; `_part.py` is shared by one or two of them.

Nothing outside imports from here: methods are found by name, through the registry.
"""
