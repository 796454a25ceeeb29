"""Datasets: images in order, with splits, classes and labelled pixels.

`images` decodes a picture that comes from anywhere, with its limits checked on what `image_headers` reads first.
`dataset` says what every dataset is (`Dataset`, `LabelledDataset`, `ConceptTable`, `ImageLabels`).
`broden` reads Broden folders: `broden_tables` their CSV files, `label_planes` their label planes; `broden_writer`
writes them. `folders` reads plain folders of images. `catalog` finds a server's datasets by name.
`findings` is what can be wrong with a dataset; the readers stop at the first error, `validation` lists all, with the
help of `table_consistency` (the tables against each other) and `label_recount` (the tables against the pixels).
`file_digests` identifies files by their contents. `rendered_scenes` draws a labelled dataset.
"""
