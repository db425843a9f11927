"""The authors' networks, written with SpikingJelly's layers and with the names of their code: for `peers.py`.

Called with an image [N, C, H, W] a timestep, or after `functional.set_step_mode(network, "m")` with all of
them, [T, N, C, H, W]. Unlike those of `spikingjelly_peer.py` they compute the first convolution at every
timestep.
"""

import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from snnlth_jax import models
from snnlth_jax.neurons import LIF

COLOURS = 3


def lif(constants: LIF) -> neuron.LIFNode:
    return neuron.LIFNode(
        tau=constants.tau,
        decay_input=constants.decay_input,
        v_threshold=constants.v_threshold,
        v_reset=constants.v_reset,
    )


class VGG(nn.Module):
    def __init__(self, model: models.VGG):
        super().__init__()
        modules: list[nn.Module] = []
        channels = COLOURS
        for entry in model.features:
            if entry == "M":
                modules.append(layer.MaxPool2d(2))
            else:
                convolution = layer.Conv2d(channels, entry, 3, padding=1)
                modules += [convolution, layer.BatchNorm2d(entry), lif(model.neuron)]
                channels = entry
        self.features, self.flatten = nn.Sequential(*modules), layer.Flatten()
        self.classifier = layer.Linear(channels, model.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.flatten(self.features(x)))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, constants: LIF):
        super().__init__()
        self.conv1 = layer.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.lif1 = layer.BatchNorm2d(outputs), lif(constants)
        self.conv2 = layer.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2, self.lif2 = layer.BatchNorm2d(outputs), lif(constants)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            projection = layer.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, layer.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.lif1(self.bn1(self.conv1(x)))))
        return self.lif2(y + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, model: models.ResNet):
        super().__init__()
        self.conv1 = layer.Conv2d(COLOURS, model.stem, 3, 1, 1, bias=False)
        self.bn1, self.lif = layer.BatchNorm2d(model.stem), lif(model.neuron)
        channels, self.stages = model.stem, []
        for stage, (count, width) in enumerate(zip(model.stage_sizes, model.widths, strict=True), 1):
            blocks = []
            for block in range(count):
                blocks.append(Block(channels, width, 1 if block else 2, model.neuron))
                channels = width
            self.stages.append(f"layer{stage}")
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.pool, self.flatten = layer.AdaptiveAvgPool2d(1), layer.Flatten()
        self.fc1, self.lif_fc = layer.Linear(channels, model.hidden), lif(model.neuron)
        self.fc2 = layer.Linear(model.hidden, model.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lif(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.fc2(self.lif_fc(self.fc1(self.flatten(self.pool(x)))))
