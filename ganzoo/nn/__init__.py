"""The papers' formulas: losses, layers, augmentation. Plain PyTorch: no Lightning, no Hydra."""
