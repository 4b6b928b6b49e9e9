"""Writes optim.golden.txt: what PyTorch's optimizers, schedules and clipping compute.

Run with any Python that has PyTorch:  python tests/golden/make_optim_golden.py
Each line is a name, then f32 or f64 values that read back exactly.
"""

import pathlib

import torch

ELEMENTS, STEPS, TOTAL = 19, 20, 40

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.05),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd_nesterov": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.02
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam_decay": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.8, 0.99), weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, eps=1e-6, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "rmsprop_momentum": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, momentum=0.8),
    "rmsprop_decay": lambda p: torch.optim.RMSprop(p, lr=0.01, weight_decay=0.1),
}

SCHEDULES = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=7, gamma=0.3),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL, eta_min=0.1),
    "linear": lambda o: torch.optim.lr_scheduler.LinearLR(
        o, start_factor=1.0, end_factor=0.25, total_iters=TOTAL
    ),
}


def line(name, values):
    return " ".join([name] + [repr(float(v)) for v in values]) + "\n"


def run(make, start, gradients, clip=None):
    """The weights after each step and, with clip, the norms before it."""
    weights = torch.nn.Parameter(start.clone())
    optimizer = make([weights])
    lines, norms = [], []
    for gradient in gradients:
        weights.grad = gradient.clone()
        if clip is not None:
            norms.append(torch.nn.utils.clip_grad_norm_([weights], clip))
        optimizer.step()
        lines.append(weights.detach().clone())
    return lines, norms


def main():
    torch.manual_seed(1)
    start = torch.randn(ELEMENTS)
    gradients = [torch.randn(ELEMENTS) * 10 ** (i % 4 - 3) for i in range(STEPS)]
    text = line("start", start)
    for gradient in gradients:
        text += line("gradient", gradient)
    for name, make in OPTIMIZERS.items():
        for weights in run(make, start, gradients)[0]:
            text += line(name, weights)
    clipped, norms = run(OPTIMIZERS["sgd_momentum"], start, gradients, clip=0.5)
    text += line("clip_norms", norms)
    for weights in clipped:
        text += line("sgd_clipped", weights)
    for name, make in SCHEDULES.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = make(optimizer)
        factors = []
        for _ in range(TOTAL):
            factors.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        text += line("schedule_" + name, factors)
    pathlib.Path(__file__).with_name("optim.golden.txt").write_text(text)


if __name__ == "__main__":
    main()
