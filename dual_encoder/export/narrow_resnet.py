"""A ResNet of a width that timm does not offer, in PyTorch; cards of such encoders show this code."""


def narrow_resnet(folder):
    """Returns the ResNet of an exported folder as a timm model; its stem is not 64 channels wide."""
    import json
    import math

    import timm
    import torch
    from safetensors.torch import load_file
    from timm.models.resnet import BasicBlock, Bottleneck, make_blocks

    with open(folder + "/config.json") as file:
        description = json.load(file)
    name, arguments = description["architecture"], description["model_args"]
    bands, channels = arguments["in_chans"], arguments["channels"]
    blocks = {"resnet18": (2, 2, 2, 2), "resnet101": (3, 4, 23, 3)}.get(name, (3, 4, 6, 3))
    block = BasicBlock if name in ("resnet18", "resnet34") else Bottleneck

    def norm(channels, **options):
        if "norm_layer" in arguments:
            return torch.nn.GroupNorm(max(1, math.gcd(64, channels) // 2), channels, **options)
        return torch.nn.BatchNorm2d(channels, **options)

    model = timm.create_model(name, num_classes=0, in_chans=bands)
    model.conv1 = torch.nn.Conv2d(bands, channels[0], 7, stride=2, padding=3, bias=False)
    model.bn1 = norm(channels[0])
    layers, _ = make_blocks((block,) * 4, tuple(channels), blocks, channels[0], norm_layer=norm)
    for layer, module in layers:
        setattr(model, layer, module)
    missing, unexpected = model.load_state_dict(load_file(folder + "/model.safetensors"), strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    return model
