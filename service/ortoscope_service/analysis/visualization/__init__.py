"""Feature visualization: pictures that a unit of a network answers to most, found by gradient ascent."""
