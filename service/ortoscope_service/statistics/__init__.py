"""Mergeable accumulators over a stream of images: each has `update`, `merge`, `to_arrays` and `from_arrays`.

* `order_statistics`: the largest values of each unit, and with them exact upper quantiles.
* `top_k`: the images with the largest (or, negated, smallest) value for each unit.

All are exact and give the same result in whatever order, and through whatever merges, the values arrive.
"""
