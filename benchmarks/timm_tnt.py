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


class Timm:
    """timm's network; on a GPU under bf16 autocast."""

    def __init__(self, batch: int, compiled: bool = False, classes: int = 100, **options: int) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        random, size = np.random.default_rng(0), options["img_size"]
        images = random.normal(size=(batch, 3, size, size)).astype(np.float32)
        self.images = torch.from_numpy(images).to(self.device)
        self.labels = torch.from_numpy(random.integers(0, classes, batch)).to(self.device)
        self.network = timm.models.tnt.TNT(num_classes=classes, **options).to(self.device)
        self.call = torch.compile(self.network) if compiled else self.network
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=0.05)

    def _logits(self) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            return self.call(self.images)

    def parameters(self) -> int:
        """How many."""
        return sum(one.numel() for one in self.network.parameters())

    def train(self) -> None:
        """One step, to its end."""
        self.network.train()
        loss = torch.nn.functional.cross_entropy(self._logits().float(), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        loss.item()

    def infer(self) -> None:
        """One batch."""
        self.network.eval()
        with torch.inference_mode():
            self._logits().cpu()
