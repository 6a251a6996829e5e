"""How fast, and against whom: run with ``pytest -m perf``."""
