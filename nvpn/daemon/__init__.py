"""The process that keeps one tunnel: start, reload, stop, state on disk, logs."""
