"""ONNX in, ONNX out: load, look at, cut and rewrite models. Pure functions; no sessions, and files only to load."""
