"""Inception with random weights, as torch-fidelity builds it."""

import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as original


def random_inception() -> torch.nn.Module:
    """torch-fidelity's network with random weights, whose features differ between images."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(original, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(original.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        net = original.FeatureExtractorInceptionV3("original", ["2048", "logits_unbiased"])
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.mul_(6**0.5)  # keeps the size of activations
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.8, 1.2)
    return net
