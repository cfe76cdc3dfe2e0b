"""Whole experiments: each calls the verbs in a paper's order and returns its tables and figures."""
