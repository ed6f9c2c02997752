"""The two networks that are trained: a small convolutional one for digits, and ResNet-20 for CIFAR-10."""

from torch import Tensor, nn
from torch.nn import functional


class DigitsNet(nn.Module):
    """Three convolutions and two linear layers, 159,626 parameters, for 8 x 8 images of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.linear1 = nn.Linear(512, 128)
        self.linear2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Give the classes' logits.

        images: float32 [n, 1, 8, 8].  Returns: float32 [n, 10].
        """
        x = functional.relu(self.conv1(images))
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv3(x)), 2)
        x = functional.relu(self.linear1(x.flatten(1)))
        logits: Tensor = self.linear2(x)
        return logits


class ResNet20(nn.Module):
    """ResNet-20 with 16, 32 and 64 channels and parameter-free shortcuts, 269,722 parameters.

    width: channels of the first of three stages; parameters grow with its square.
    in_channels: of the images.
    patch: side of the squares of pixels that the first layer makes one of; compute falls with its square.

    Source: He, Zhang, Ren, Sun 2015, section 4.2, shortcut A.
    """

    def __init__(self, *, width: int = 16, in_channels: int = 3, patch: int = 1) -> None:
        super().__init__()
        self.conv1 = (
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
            if patch == 1
            else nn.Conv2d(in_channels, width, patch, stride=patch, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _layer(width, width)
        self.layer2 = _layer(width, 2 * width)
        self.layer3 = _layer(2 * width, 4 * width)
        self.linear = nn.Linear(4 * width, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Give the classes' logits.

        images: float32 [n, in_channels, 32, 32], or of other sizes.  Returns: float32 [n, 10].
        """
        x = functional.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stride = channels // in_channels  # where the channels double, the image halves
        self.new_channels = channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        half = self.new_channels // 2
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return functional.relu(self.bn2(self.conv2(y)) + shortcut)


def _layer(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(_Block(in_channels, channels), _Block(channels, channels), _Block(channels, channels))
