"""One study per paper: calls the verbs in the paper's order, returns its tables and figures."""
