"""Stages on the workers of a dask.distributed scheduler: one machine with several GPUs, or a cluster. Light to import."""
