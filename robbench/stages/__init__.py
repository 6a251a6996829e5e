"""One stage of a study, resumable, and the graph of stages."""
