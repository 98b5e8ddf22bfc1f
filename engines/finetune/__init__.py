"""LoRA adapters out of a data set, for both models: training, what it was worth, and a card that says so."""
