"""Tasks on Ray: the executor ``"ray"``, on Ray's public interface alone."""
