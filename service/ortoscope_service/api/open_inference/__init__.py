"""Generated messages and stubs of the Open Inference Protocol; only the service registers them."""
