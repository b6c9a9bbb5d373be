"""What the ready handlers share: where a model is, which device it runs on, and the loop that generates text. It runs where PyTorch and transformers are installed."""
