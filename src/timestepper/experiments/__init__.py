"""The paper's tables and figures, each a small module over the other folders."""
