import torch

from trafficzip.demo.networks import DigitsNet, ResNet20


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_digits_net_has_its_size():
    network = DigitsNet()
    assert num_parameters(network) == 159_626
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_resnet20_has_its_published_size():
    network = ResNet20()
    assert num_parameters(network) == 269_722  # 0.27 million in the paper's table 6
    assert sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in network.modules()) == 20
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
