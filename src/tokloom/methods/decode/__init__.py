"""The decode stage: which token comes next."""
