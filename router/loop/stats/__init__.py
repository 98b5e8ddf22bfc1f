"""Numbers with intervals: how good answers are, and whether one way of answering is better than another."""
