"""Seed 001: a small PyTorch CNN for MNIST, as the article writes it and repaired."""

from __future__ import annotations

from convcraft.workflows.seeds.program import Program, Promise, Task

TASK = Task("MNIST", num_classes=10, image_shape=(1, 28, 28), train_images=60_000, test_images=10_000)
PROMISES = (
    Promise("early stopping", "step 4 of section 3.2 stops early by the validation figure"),
    Promise("dropout", "answer Q4 names dropout against overfitting"),
)

# The listing of section 5.2 (comments left out).
SOURCE = """\
import torch
import torch.nn as nn
import torch.optim as optim
import torch.nn.functional as F

class CNNClassifier(nn.Module):
    def __init__(self):
        super(CNNClassifier, self).__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.fc1 = nn.Linear(64 * 8 * 8, 128)
        self.fc2 = nn.Linear(128, 2)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 64 * 8 * 8)
        x = F.relu(self.fc1(x))
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)

device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')

model = CNNClassifier().to(device)
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=0.001)

train_loader = torch.utils.data.DataLoader(train_dataset, batch_size=64, shuffle=True)
test_loader = torch.utils.data.DataLoader(test_dataset, batch_size=64, shuffle=False)

def train(epoch):
    model.train()
    running_loss = 0.0
    correct = 0
    total = 0
    for i, data in enumerate(train_loader, 0):
        inputs, labels = data[0].to(device), data[1].to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        correct += int((outputs.argmax(1) == labels).sum().item())
        total += labels.size(0)
    epoch_loss = running_loss / len(train_loader)
    epoch_acc = 100.0 * correct / total
    print('Train Epoch: {} \\tLoss: {:.4f} \\tAccuracy: {:.2f}%'.format(epoch, epoch_loss, epoch_acc))

def test():
    model.eval()
    correct = 0
    total = 0
    with torch.no_grad():
        for data in test_loader:
            inputs, labels = data[0].to(device), data[1].to(device)
            outputs = model(inputs)
            _, predicted = torch.max(outputs.data, 1)
            total += labels.size(0)
            correct += int((predicted == labels).sum().item())
    print('Test Accuracy of the model on the 10000 test images: {} %'.format(100.0 * correct / total))

epochs = 10

for epoch in range(epochs):
    train(epoch)
    test()

print('Finished Training')
"""

# The same program with its mistakes mended and nothing else changed.
REPAIRED = """\
import copy
import torch
import torch.nn as nn
import torch.optim as optim
import torch.nn.functional as F
from torchvision import datasets, transforms

class CNNClassifier(nn.Module):
    def __init__(self):
        super(CNNClassifier, self).__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.fc1 = nn.Linear(64 * 5 * 5, 128)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(self.dropout(x))

device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
labelled = datasets.MNIST('data', train=True, transform=to_input)
test_dataset = datasets.MNIST('data', train=False, transform=to_input)
parts = [len(labelled) * 11 // 12, len(labelled) - len(labelled) * 11 // 12]
train_dataset, val_dataset = torch.utils.data.random_split(labelled, parts, torch.Generator().manual_seed(0))
train_loader = torch.utils.data.DataLoader(train_dataset, batch_size=64, shuffle=True)
val_loader = torch.utils.data.DataLoader(val_dataset, batch_size=64)
test_loader = torch.utils.data.DataLoader(test_dataset, batch_size=64)

model = CNNClassifier().to(device)
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=0.001)

def train():
    model.train()
    for inputs, labels in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()

def accuracy(loader):
    model.eval()
    with torch.no_grad():
        correct = sum(int((model(x.to(device)).argmax(1).cpu() == y).sum()) for x, y in loader)
    return correct / len(loader.dataset)

epochs = 10
patience, since_best, best, kept = 3, 0, -1.0, None
for epoch in range(epochs):
    train()
    reached = accuracy(val_loader)
    print('Epoch {}: validation accuracy {:.2%}'.format(epoch + 1, reached))
    since_best += 1
    if reached > best:
        best, since_best, kept = reached, 0, copy.deepcopy(model.state_dict())
    if since_best == patience:
        break

model.load_state_dict(kept)
print('Test accuracy: {:.2%}'.format(accuracy(test_loader)))
"""


def as_written() -> Program:
    return Program(SOURCE, TASK, promises=PROMISES)


def repaired() -> Program:
    return Program(REPAIRED, TASK, promises=PROMISES)
