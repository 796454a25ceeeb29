"""Network dissection: which labelled concept each unit detects (Bau, Zhou et al., CVPR 2017).

One pass of the model over the images suffices, shard by shard and in whatever processes:

1. `survey` runs the trunk over the images of a shard and looks at every map: the largest values of each unit may decide
   the threshold, and maps that can still rise above it are set aside in a file.
2. `thresholds` finds the exact thresholds from the surveys of all shards; and from those of the first few a bound, so
   that the others need to set aside little.
3. With the thresholds known, `counting` reads the maps of a shard back (`spool`), and `tally` raises them to the size
   of the label planes and counts (`kernels`, with the bilinear rule of `upsampling`). Counts of shards add up.
4. `scores` turns counts into IoU, labels and detectors. `pipeline` is all of it in one process.
"""
