"""Seed 003: torchvision's ResNet-18 on CIFAR-10, as the article writes it and repaired."""

from __future__ import annotations

import numpy as np

from convcraft.workflows.seeds.program import WRONG, Diagnosis, Program, Promise, Task

TASK = Task("CIFAR-10", num_classes=10, image_shape=(3, 32, 32), train_images=50_000, test_images=10_000)
PROMISES = (
    Promise("pretrained weights", "the text fine-tunes a pretrained network"),
    Promise("augmentation", "section 2.2.5 puts augmentation against overfitting"),
    Promise("early stopping", "step 4 of section 3.2 stops early by the validation figure"),
    Promise("frozen layers", "section 5.4 says that only the top layer was fine-tuned"),
)

# The listings of section 5.2, joined.
SOURCE = """\
from torchvision.datasets import CIFAR10
from torchvision.transforms import ToTensor

train_dataset = CIFAR10(root='./data', train=True, download=True, transform=ToTensor())
test_dataset = CIFAR10(root='./data', train=False, download=True, transform=ToTensor())

train_loader = torch.utils.data.DataLoader(train_dataset, batch_size=128, shuffle=True)
test_loader = torch.utils.data.DataLoader(test_dataset, batch_size=128, shuffle=False)

from torchvision.models.resnet import ResNet18

model = ResNet18().cuda()

optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

def train_epoch(model, data_loader, optimizer):
    model.train()
    losses = []
    for images, labels in data_loader:
        images, labels = images.cuda(), labels.cuda()
        optimizer.zero_grad()
        output = model(images)
        loss = F.cross_entropy(output, labels)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return sum(losses) / len(losses)

def evaluate(model, data_loader):
    model.eval()
    correct = 0
    total = 0
    with torch.no_grad():
        for images, labels in data_loader:
            images, labels = images.cuda(), labels.cuda()
            output = model(images)
            _, predicted = torch.max(output, 1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    print('Accuracy: {}%'.format(100 * correct / total))

epochs = 10

for epoch in range(epochs):
    train_loss = train_epoch(model, train_loader, optimizer)
    print('Epoch {}: Train loss: {:.4f}'.format(epoch+1, train_loss))

    evaluate(model, test_loader)
"""

# The same program with its mistakes mended: published weights, its own head, only that head trained, as the text says.
REPAIRED = """\
import copy
import torch
import torch.nn as nn
import torch.nn.functional as F
from torchvision import transforms
from torchvision.datasets import CIFAR10
from torchvision.models.resnet import ResNet18_Weights, resnet18

device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
to_input = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
changes = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, padding=4), *to_input])
train_dataset = CIFAR10(root='./data', train=True, download=True, transform=changes)
val_dataset = CIFAR10(root='./data', train=True, transform=transforms.Compose(to_input))
test_dataset = CIFAR10(root='./data', train=False, download=True, transform=transforms.Compose(to_input))
order = torch.randperm(len(train_dataset), generator=torch.Generator().manual_seed(0)).tolist()
border = len(order) * 9 // 10
train_dataset = torch.utils.data.Subset(train_dataset, order[:border])
val_dataset = torch.utils.data.Subset(val_dataset, order[border:])
train_loader = torch.utils.data.DataLoader(train_dataset, batch_size=128, shuffle=True)
val_loader = torch.utils.data.DataLoader(val_dataset, batch_size=128)
test_loader = torch.utils.data.DataLoader(test_dataset, batch_size=128)

model = resnet18(weights=ResNet18_Weights.IMAGENET1K_V1)
model.requires_grad_(False)
model.fc = nn.Linear(model.fc.in_features, 10)
model = model.to(device)
optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-3)

def train_epoch(model, data_loader, optimizer):
    model.eval()
    losses = []
    for images, labels in data_loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return sum(losses) / len(losses)

def accuracy(model, data_loader):
    model.eval()
    with torch.no_grad():
        correct = sum(int((model(x.to(device)).argmax(1).cpu() == y).sum()) for x, y in data_loader)
    return correct / len(data_loader.dataset)

epochs = 10
patience, since_best, best, kept = 3, 0, -1.0, None
for epoch in range(epochs):
    train_loss = train_epoch(model, train_loader, optimizer)
    reached = accuracy(model, val_loader)
    print('Epoch {}: train loss {:.4f}, validation accuracy {:.2%}'.format(epoch + 1, train_loss, reached))
    since_best += 1
    if reached > best:
        best, since_best, kept = reached, 0, copy.deepcopy(model.state_dict())
    if since_best == patience:
        break

model.load_state_dict(kept)
print('Test accuracy: {:.2%}'.format(accuracy(model, test_loader)))
"""


def as_written() -> Program:
    return Program(SOURCE, TASK, promises=PROMISES)


def repaired() -> Program:
    return Program(REPAIRED, TASK, promises=PROMISES)


def written_objective(outputs: np.ndarray, inputs: np.ndarray) -> float:
    """Section 3.1: "minimise ||y - x||", the distance between a network's output and its input; labels do not occur."""
    return float(np.linalg.norm(outputs - inputs))


def text_findings() -> list[Diagnosis]:
    """The article's residual objective, tried out on two blocks: one that computes nothing, one that does something.

    A worked example, not a check: no program reads the formula out of the prose, people did.
    """
    inputs = np.linspace(-1.0, 1.0, 8)
    nothing, something = inputs + 0.0, inputs + np.maximum(inputs, 0)
    cause = (
        f"min ||y - x|| is {written_objective(nothing, inputs):.0f} for a block that computes nothing at all "
        f"(y = x + 0) and {written_objective(something, inputs):.2f} for one that does something: it asks every block "
        "to be idle, and no label occurs in it"
    )
    fix = "A block computes y = x + F(x); trained is the cross-entropy of the last layer (He et al. 2016, section 3.1)."
    return [Diagnosis("residual objective", WRONG, "text, section 3.1", cause, fix)]
