"""timm's TNT on PyTorch: AdamW on float images that are normalised already, as timm's own benchmark does it."""

import numpy as np
import torch

try:
    import timm
except RuntimeError:  # it imports torchvision, whose operators are missing where its build is not PyTorch's
    LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
        LIBRARY.define(operator)
    import timm


def set_precision(precision: str) -> None:
    """Let products of float32 on a GPU round their factors to TF32, or not."""
    kind = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = kind
    torch.backends.cudnn.conv.fp32_precision = kind


class Timm:
    """timm's network; by default under bf16 autocast on a GPU, and in float32 on a processor."""

    def __init__(
        self, batch: int, compiled: bool = False, classes: int = 100, precision: str = "", **options: int
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.autocast = (precision or ("bfloat16" if self.device == "cuda" else "float32")) == "bfloat16"
        if precision:
            set_precision(precision)
        random, size = np.random.default_rng(0), options["img_size"]
        images = random.normal(size=(batch, 3, size, size)).astype(np.float32)
        self.images = torch.from_numpy(images).to(self.device)
        self.labels = torch.from_numpy(random.integers(0, classes, batch)).to(self.device)
        self.network = timm.models.tnt.TNT(num_classes=classes, **options).to(self.device)
        self.call = torch.compile(self.network) if compiled else self.network
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=0.05)

    def _logits(self) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            return self.call(self.images)

    def parameters(self) -> int:
        """How many."""
        return sum(one.numel() for one in self.network.parameters())

    def step(self) -> torch.Tensor:
        """One step; its loss, for which nobody has waited."""
        self.network.train()
        loss = torch.nn.functional.cross_entropy(self._logits().float(), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss

    def train(self) -> None:
        """One step, to its end."""
        self.step().item()

    def infer(self) -> None:
        """One batch."""
        self.network.eval()
        with torch.inference_mode():
            self._logits().cpu()
