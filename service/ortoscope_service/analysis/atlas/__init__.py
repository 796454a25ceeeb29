"""Activation atlases (Carter et al. 2019): a whole layer on one page.

The way of the data: `collection` (activations at single sites of many images) → `layout` (similar ones side by side) →
`grid` (averages over cells) → `icons` (what each average looks for).
"""
