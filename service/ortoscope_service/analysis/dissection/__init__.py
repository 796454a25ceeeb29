"""Network dissection: which labelled concept each unit detects (Bau, Zhou et al., CVPR 2017).

One pass of the model over the images suffices:

1. `pipeline` runs the trunk and surveys every map: the largest values of each unit go into the threshold, and maps that
   can still rise above it go to the `spool`.
2. With the thresholds known, `tally` raises the spooled maps to the size of the label planes and counts
   (`kernels`, with the bilinear rule of `upsampling`).
3. `scores` turns counts into IoU, labels and detectors.
"""
