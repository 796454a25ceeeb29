"""The page of an activation atlas, and its exports: a file or folder that fetches nothing."""
