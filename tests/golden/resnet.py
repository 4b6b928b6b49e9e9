"""ResNet (He et al. 2016, version 1.5) made of PyTorch's layers, with torchvision's names and first
values: what models/resnet.cpp is compared with."""

import torch
from torch import nn

DEPTHS = {18: ("basic", [2, 2, 2, 2]), 34: ("basic", [3, 4, 6, 3]),
          50: ("bottleneck", [3, 4, 6, 3])}


def conv(inputs, filters, kernel, stride=1):
    return nn.Conv2d(inputs, filters, kernel, stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
    def __init__(self, kind, inputs, width, stride):
        super().__init__()
        self.bottleneck = kind == "bottleneck"
        outputs = 4 * width if self.bottleneck else width
        self.conv1 = conv(inputs, width, 1) if self.bottleneck else conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride if self.bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(width)
        if self.bottleneck:
            self.conv3 = conv(width, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride),
                                            nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, kind, blocks, filters, stem, classes, channels=3):
        super().__init__()
        self.imagenet = stem == "imagenet"
        self.conv1 = conv(channels, filters, 7, 2) if self.imagenet else conv(channels, filters, 3)
        self.bn1 = nn.BatchNorm2d(filters)
        inputs, self.layers = filters, []
        for stage, count in enumerate(blocks):
            layers = []
            for i in range(count):
                width = filters << stage
                layers.append(Block(kind, inputs, width, 2 if stage > 0 and i == 0 else 1))
                inputs = 4 * width if kind == "bottleneck" else width
            self.layers.append(f"layer{stage + 1}")
            self.add_module(self.layers[-1], nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        if self.imagenet:
            x = nn.functional.max_pool2d(x, 3, 2, 1)
        for layer in self.layers:
            x = getattr(self, layer)(x)
        return self.fc(x.mean((2, 3)))


def resnet(depth, stem, classes):
    kind, blocks = DEPTHS[depth]
    return ResNet(kind, blocks, 64, stem, classes)
