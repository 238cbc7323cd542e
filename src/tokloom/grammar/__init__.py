"""Grammars: front ends (JSON Schema, regex, GBNF, Lark, EBNF, structural tags) and the engine that makes masks."""
