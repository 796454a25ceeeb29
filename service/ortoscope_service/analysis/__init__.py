"""The science, with no knowledge of how it is asked for.

* `activations`: what units respond to on given inputs.
* `examples`: the images of a dataset that drive each unit most and least.
* `gradients`: what units and classes depend on; `attribution`: which parts of a layer speak for each class; `classes`:
  where a model has its classes.
* `dissection`: which labelled concept each unit detects.
* `execution`: how a model is run over many images; examples and dissection share it.
"""
