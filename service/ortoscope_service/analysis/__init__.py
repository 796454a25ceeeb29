"""The science, with no knowledge of how it is asked for.

* `activations`: what units respond to on given inputs.
* `examples`: the images of a dataset that drive each unit most and least.
* `dissection`: which labelled concept each unit detects.
* `execution`: how a model is run over many images; the three above share it.
"""
