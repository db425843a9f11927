"""The networks built from SpikingJelly's layers on PyTorch, as a process that `train_step.py` commands.

Reads one JSON object a line from standard input and answers each with one on standard output. It runs in an
environment of its own, with torch and spikingjelly; this package is not imported.

    {"outcome": {layers, mode, timesteps, device, file, into}}   ->  {}, and `into` holds what a pass computed
    {"prepare": {layers, mode, timesteps, dtype, device, file}}  ->  {"loss": of three steps, ...}
    {"steps": n}                                                 ->  {"seconds": ...}

`layers` is {"kind": "VGG", "features": [64, "M", ...]} or {"kind": "ResNet", "blocks": [...],
"widths": [...], "stem": 64, "hidden": 256}.

Modes: "authors" loops over timesteps as the authors' code does, batch norm with each timestep's own
statistics; "multi-step" runs each layer for all timesteps at once: batch norm then has statistics of all
timesteps together, which from two timesteps on is another network. "multi-step compiled" and "multi-step
graphs" are that with `torch.compile`, the latter with CUDA graphs. All but "authors" have channels last and,
on a GPU, cuDNN's choice of algorithms by timing and the fused SGD; on which of its backends neurons run,
SpikingJelly decides and says on standard error.
"""

import json
import os
import sys
import time

import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

COMPILERS = {
    "multi-step compiled": torch.compile,
    "multi-step graphs": lambda network: torch.compile(network, mode="reduce-overhead"),
}


def lif(mode: str) -> neuron.LIFNode:
    return neuron.LIFNode(
        tau=4 / 3,
        surrogate_function=surrogate.ATan(alpha=2.0),
        detach_reset=True,
        step_mode="s" if mode == "authors" else "m",
    )


def convolution(inputs: int, outputs: int, mode: str, size: int = 3, stride: int = 1, bias: bool = True):
    made = layer.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)
    made.step_mode = "s" if mode == "authors" else "m"
    return made


def norm(channels: int, mode: str):
    made = layer.BatchNorm2d(channels)
    made.step_mode = "s" if mode == "authors" else "m"
    return made


class VGG(nn.Module):
    """`features` and `classifier` as in the authors' code: the first convolution runs once."""

    def __init__(self, mode: str, inputs: int, readout: int, features, classes: int = 10):
        super().__init__()
        layers, channels = [], inputs
        for entry in features:
            if entry == "M":
                layers.append(layer.MaxPool2d(2, step_mode="s" if mode == "authors" else "m"))
            else:
                layers += [convolution(channels, entry, mode), norm(entry, mode), lif(mode)]
                channels = entry
        for first in layers[:2]:
            first.step_mode = "s"
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(readout, classes)
        self.mode = mode

    def forward(self, x: torch.Tensor, timesteps: int) -> torch.Tensor:
        current, rest = self.features[:2](x), self.features[2:]
        if self.mode == "authors":
            return torch.stack([self.classifier(rest(current).flatten(1)) for _ in range(timesteps)])
        return self.classifier(rest(current.expand(timesteps, *current.shape)).flatten(2))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, mode: str):
        super().__init__()
        self.conv1 = convolution(inputs, outputs, mode, stride=stride, bias=False)
        self.conv2 = convolution(outputs, outputs, mode, bias=False)
        self.bn1, self.bn2 = norm(outputs, mode), norm(outputs, mode)
        self.lif1, self.lif2 = lif(mode), lif(mode)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, mode, 1, stride, bias=False), norm(outputs, mode)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.lif1(self.bn1(self.conv1(x)))
        return self.lif2(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet19 with the names of the authors' code."""

    def __init__(
        self, mode: str, inputs: int, readout: int, blocks, widths, stem: int, hidden: int, classes: int = 10
    ):
        super().__init__()
        self.conv1, self.bn1, self.lif = (
            convolution(inputs, stem, mode, bias=False),
            norm(stem, mode),
            lif(mode),
        )
        self.conv1.step_mode = self.bn1.step_mode = "s"
        channels, self.stages = stem, len(widths)
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
            layers = []
            for block in range(count):
                layers.append(Block(channels, width, 2 if block == 0 else 1, mode))
                channels = width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.fc1, self.fc2, self.lif_fc = nn.Linear(channels, hidden), nn.Linear(hidden, classes), lif(mode)
        self.mode = mode

    def forward(self, x: torch.Tensor, timesteps: int) -> torch.Tensor:
        current = self.bn1(self.conv1(x))

        def rest(x):
            x = self.lif(x)
            for stage in range(1, self.stages + 1):
                x = getattr(self, f"layer{stage}")(x)
            return self.fc2(self.lif_fc(self.fc1(x.mean((-2, -1)))))

        if self.mode == "authors":
            return torch.stack([rest(current) for _ in range(timesteps)])
        return rest(current.expand(timesteps, *current.shape))


def load(layers: dict, mode: str, file: str, device: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The network with the weights of a file, and its images and labels."""
    with np.load(file) as arrays:
        given = {name: torch.from_numpy(arrays[name]) for name in arrays}
    made = dict(layers)
    kind = {"VGG": VGG, "ResNet": ResNet}[made.pop("kind")]
    last = given.get("classifier.weight", given.get("fc1.weight"))
    network = kind(mode, given["images"].shape[-1], last.shape[1], **made)
    images, labels = given.pop("images").permute(0, 3, 1, 2).contiguous(), given.pop("labels").long()
    network = network.to(next(iter(given.values())).dtype)
    missing, unexpected = network.load_state_dict(given, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    assert not missing + unexpected, missing + unexpected
    channels_last = {"memory_format": torch.channels_last} if mode != "authors" else {}
    return network.to(device, **channels_last), images.to(device, **channels_last), labels.to(device)


def outcome(layers: dict, mode: str, timesteps: int, device: str, file: str, into: str) -> None:
    """Logits in training mode, and every running statistic after it, in the precision of the file."""
    network, images, _ = load(layers, mode, file, device)
    logits = network(images, timesteps)
    running = {name: array for name, array in network.state_dict().items() if "running" in name}
    computed = {"logits": logits, **running}
    np.savez(into, **{name: array.detach().cpu().numpy() for name, array in computed.items()})


class Training:
    """A network, a batch, and SGD as the authors run it."""

    def __init__(self, layers: dict, mode: str, timesteps: int, dtype: str, device: str, file: str):
        torch.manual_seed(0)
        if mode == "multi-step graphs" and device != "cuda":
            raise ValueError("CUDA graphs need a GPU")
        self.device, self.timesteps = device, timesteps
        self.low = torch.bfloat16 if dtype == "bfloat16" else None
        tuned = mode != "authors" and device == "cuda"
        torch.backends.cudnn.benchmark = tuned
        self.network, self.images, self.labels = load(layers, mode, file, device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=tuned
        )
        self.forward = COMPILERS.get(mode, lambda network: network)(self.network)

    def step(self) -> torch.Tensor:
        with torch.autocast(self.device, self.low, enabled=self.low is not None):
            logits = self.forward(self.images, self.timesteps).float()
        labels = self.labels.expand(self.timesteps, -1).reshape(-1)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        functional.reset_net(self.network)
        return loss.detach()

    def run(self, steps: int) -> float:
        self.wait()
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.wait()
        return time.perf_counter() - begun

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_memory(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    training = None
    for line in sys.stdin:
        ((command, given),) = json.loads(line).items()
        try:
            answer = {}
            if command == "outcome":
                outcome(**given)
            elif command == "prepare":
                training = Training(**given)
                begun = time.perf_counter()
                first = float(training.step())
                seconds = time.perf_counter() - begun
                answer = {
                    "loss": [first, float(training.step()), float(training.step())],
                    "first_step_seconds": seconds,
                    "peak_memory": training.peak_memory(),
                }
            else:
                answer = {"seconds": training.run(given)}
        except Exception as error:  # out of memory, a backend that does not work: this case is left out
            training, answer = None, {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
