"""Optimizers and their settings that tests go through."""

OPTIMIZERS = {
    "SGD": {"lr": 0.1},
    "SGD, weight decay": {"lr": 0.1, "weight_decay": 0.01},
    "SGD, momentum": {"momentum": 0.9},
    "SGD, momentum, weight decay": {"momentum": 0.9, "weight_decay": 0.01},
    "Nesterov": {"momentum": 0.9, "nesterov": True},
    "Nesterov, weight decay": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.02},
    "Adam": {"optimizer": "Adam"},
    "Adam, weight decay": {"optimizer": "Adam", "weight_decay": 0.01},
    "AdamW": {"optimizer": "AdamW"},
    "AdamW, weight decay": {"optimizer": "AdamW", "weight_decay": 0.1},
    "RMSprop": {"optimizer": "RMSprop", "lr": 0.001},
    "RMSprop, weight decay": {"optimizer": "RMSprop", "lr": 0.001, "weight_decay": 0.01},
    "RMSprop, momentum": {"optimizer": "RMSprop", "lr": 0.001, "momentum": 0.5},
    "RMSprop, momentum, weight decay": {"optimizer": "RMSprop", "lr": 0.001, "momentum": 0.5, "weight_decay": 0.01},
    "Adadelta": {"optimizer": "Adadelta", "lr": 1.0},
    "Adadelta, weight decay": {"optimizer": "Adadelta", "lr": 0.5, "weight_decay": 0.01},
}
