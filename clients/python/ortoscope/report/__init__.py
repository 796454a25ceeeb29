"""Reports: one HTML file each, which opens from the disk and fetches nothing."""
