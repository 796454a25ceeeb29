"""Generated messages and stubs of the API `ortoscope.v1`."""
