"""The study's networks without shortcuts, for 28x28 grey images (thesis, section 5.1; its names are ADA-VERONA's)."""

from __future__ import annotations

from torch import nn

from robbench.models.network import layers


def relu_4_1024(classes: int) -> nn.Sequential:
    """Fully connected 784–1024–1024–1024–classes. (N, 1, 28, 28) -> (N, classes)."""
    return layers(
        flatten=nn.Flatten(),
        fc1=nn.Linear(784, 1024),
        relu1=nn.ReLU(inplace=True),
        fc2=nn.Linear(1024, 1024),
        relu2=nn.ReLU(inplace=True),
        fc3=nn.Linear(1024, 1024),
        relu3=nn.ReLU(inplace=True),
        fc4=nn.Linear(1024, classes),
    )


def cnn3(classes: int) -> nn.Sequential:
    """One convolution and two fully connected layers, no ReLU between these two. (N, 1, 28, 28) -> (N, classes)."""
    return layers(
        conv1=nn.Conv2d(1, 32, 5, padding=2),
        relu1=nn.ReLU(inplace=True),
        flatten=nn.Flatten(),
        fc1=nn.Linear(25088, 128),
        fc2=nn.Linear(128, classes),
    )


def cnn4(classes: int) -> nn.Sequential:
    """The network of Madry et al. 2018 for MNIST. (N, 1, 28, 28) -> (N, classes)."""
    return layers(
        conv1=nn.Conv2d(1, 32, 5, padding=2),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, 5, padding=2),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(3136, 1024),
        relu3=nn.ReLU(inplace=True),
        fc2=nn.Linear(1024, classes),
    )


def cnn7(classes: int) -> nn.Sequential:
    """The larger network of Yang et al. for MNIST. (N, 1, 28, 28) -> (N, classes)."""
    return layers(
        conv1=nn.Conv2d(1, 32, 3),
        relu1=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(32, 32, 3),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(2),
        conv3=nn.Conv2d(32, 64, 3),
        relu3=nn.ReLU(inplace=True),
        conv4=nn.Conv2d(64, 64, 3),
        relu4=nn.ReLU(inplace=True),
        pool4=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(1024, 200),
        relu5=nn.ReLU(inplace=True),
        fc2=nn.Linear(200, 200),
        relu6=nn.ReLU(inplace=True),
        fc3=nn.Linear(200, classes),
    )


def cnn_dropout(classes: int) -> nn.Sequential:
    """The network of Yang et al. with dropout. (N, 1, 28, 28) -> (N, classes)."""
    return layers(
        conv1=nn.Conv2d(1, 32, 3),
        relu1=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(32, 64, 3),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(2),
        dropout1=nn.Dropout(0.25),
        flatten=nn.Flatten(),
        fc1=nn.Linear(9216, 128),
        relu3=nn.ReLU(inplace=True),
        dropout2=nn.Dropout(0.5),
        fc2=nn.Linear(128, classes),
    )
