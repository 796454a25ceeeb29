"""Mergeable accumulators over a stream of images, of which parts may be seen by different processes.

* `order_statistics`: the largest values of each unit in a part, and where a quantile lies among those of all.
* `selection`: the exact order statistics, and with them quantiles, from all parts.
* `top_k`: the images with the largest (or, negated, smallest) value for each unit.

All are exact and give the same result in whatever order, and through whatever merges, the values arrive. Their state
goes to arrays and comes back from arrays.
"""
