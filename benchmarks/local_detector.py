"""A detector of small round things: local features at 56 x 56, a film's score is that of its highest cell.

What the study's encoder says of a nodule is drawn from maps of 28 x 28 cells, one for each side, each taught
by half of the nodules. This one (70,000 weights) is taught on crops, both sides as one: it measures how far
local features read focal findings in the films. The study itself does not use it.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from cxrtrek_lib.encoder import Residual, conv
from cxrtrek_lib.pretrain import Truth

FOCAL = ("nodule", "mass", "granuloma")
STRIDE, CROP, RIM = 4, 96, 2  # pixels a cell; pixels a crop; cells at a film's edge that are not read
# Crops of a batch that hold a finding, by finding, and those from anywhere.
HOLDING, ANYWHERE = (5, 2, 1), 8
RATE = 2e-3


class Dilated(Residual):
    """A residual block that sees twice as far."""

    def __init__(self, channels: int):
        super().__init__(channels)
        for part in (self.first, self.second):
            part[0].dilation = part[0].padding = (2, 2)


class Detector(nn.Module):
    """[B, 4, H, W] (see `channels`) -> logits [B, 3, H/4, W/4] that a cell lies in each finding of FOCAL."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(conv(4, 16, stride=2), conv(16, 24), conv(24, 32, stride=2)),
            *(Residual(32), Dilated(32), Dilated(32)),
        )
        self.head = nn.Conv2d(32, len(FOCAL), 1)
        nn.init.constant_(self.head.bias, -4.0)  # begin with "nothing here", as the encoder does

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def channels(films: Tensor) -> Tensor:
    """uint8 [B, 1, S, S] -> [B, 4, S, S]: film, the same in units of its local contrast, |x|, y."""
    film = films.float() / 127.5 - 1
    detail = film - _mean(film, 10)
    detail = detail / (_mean(detail.square(), 16) + 1e-3).sqrt()
    axis = (torch.arange(film.shape[-1]) + 0.5) / film.shape[-1] * 2 - 1
    place = torch.stack(torch.meshgrid(axis, axis.abs(), indexing="ij")[::-1]).expand(len(film), -1, -1, -1)
    return torch.cat([film, detail, place], 1)


def _mean(image: Tensor, reach: int) -> Tensor:
    """Mean over a square that reaches so many pixels to each side."""
    wide = F.pad(image, [reach] * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(wide, (1, 2 * reach + 1), 1), (2 * reach + 1, 1), 1)


def known_of(truth: Truth, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(status float (F, 3): 1 present, 0 absent, NaN not known; boxes (N, 6): film, finding, x1, y1, x2, y2).

    truth, names  as pretrain.truth gives it, and the encoder's channels; boxes as fractions of the film
    """
    status, boxes = np.full((len(truth.presence), len(FOCAL)), np.nan), []
    for k, finding in enumerate(FOCAL):
        for column in (i for i, name in enumerate(names) if name.split("|")[0] == finding):
            presence = truth.presence[:, column].numpy()
            status[:, k] = np.fmax(status[:, k], presence)
            for film in np.flatnonzero(presence == 1):
                boxes.append([film, k, *truth.finding_boxes[film, column].tolist()])
    return status, np.array([box for box in boxes if np.isfinite(box).all()])


def target(boxes: np.ndarray, corner: tuple[int, int], size: int) -> Tensor:
    """Soft ellipses [3, size/4, size/4] in boxes (N, 5) (finding, x1, y1, x2, y2 px), of a crop at (x, y)."""
    heat = torch.zeros(len(FOCAL), size // STRIDE, size // STRIDE)
    axis = (torch.arange(size // STRIDE) + 0.5) * STRIDE
    for finding, *ends in boxes:
        off = []
        for low, high, start in zip(ends[:2], ends[2:], corner, strict=True):
            off.append(((axis + start - (low + high) / 2) / max((high - low) / 2, STRIDE)).square())
        one = torch.exp(-1.5 * (off[0] + off[1][:, None]))
        heat[int(finding)] = torch.maximum(heat[int(finding)], one)
    return heat


def loss(logits: Tensor, heat: Tensor, known: Tensor) -> Tensor:
    """Focal loss of cells, normalised per finding (as in pretrain.loss); known bool [B, 3]."""
    chance = logits.sigmoid()
    hit = heat * (1 - chance).square() * F.softplus(-logits)
    miss = (1 - heat).pow(4) * chance.square() * F.softplus(logits) * known[..., None, None]
    return ((hit + miss).sum((0, 2, 3)) / heat.sum((0, 2, 3)).clamp_min(1)).mean()


def fit(films: Tensor, status: np.ndarray, boxes: np.ndarray, *, steps: int, seed: int) -> Detector:
    """Train on crops of films uint8 [F, 1, S, S]; status and boxes as `known_of` gives them.

    Raises ValueError when a finding of FOCAL has no box.
    """
    size = films.shape[-1]
    pixels = boxes * [1, 1, *[size] * 4]
    holding = [np.flatnonzero(boxes[:, 1] == k) for k in range(len(FOCAL))]
    if missing := [name for name, rows in zip(FOCAL, holding, strict=True) if not len(rows)]:
        raise ValueError(f"no {missing[0]} among {len(films)} training films: raise --train")
    # Eight bits of the local contrast, too: a third of the memory.
    detail = torch.cat([
        (channels(part)[:, 1:2] * 32).clamp(-127, 127).to(torch.int8) for part in films.split(64)
    ])  # fmt: skip
    place = channels(films[:1])[0, 2:]
    of_film = {film: pixels[boxes[:, 0] == film, 1:] for film in np.unique(boxes[:, 0]).astype(int)}
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net = Detector()
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    for _ in tqdm(range(steps), desc="training the local detector", unit="step"):
        at = [
            (int(row[0]), (row[2:4] + row[4:]) / 2 + random.uniform(-CROP / 3, CROP / 3, 2))
            for rows, n in zip(holding, HOLDING, strict=True)
            for row in pixels[random.choice(rows, n)]
        ]
        places = random.uniform(0.18, 0.82, (ANYWHERE, 2)) * size
        at += zip(random.integers(len(films), size=ANYWHERE).tolist(), places, strict=True)
        crops, heats = [], []
        for film, middle in at:
            x, y = np.clip(middle - CROP / 2, 0, size - CROP).astype(int).tolist()
            here = slice(y, y + CROP), slice(x, x + CROP)
            grey, local = films[film][:, *here].float(), detail[film][:, *here].float()
            crop = [grey / 127.5 - 1, local / 32, place[:, *here]]
            heat = target(of_film.get(film, boxes[:0, 1:]), (x, y), CROP)
            # The other side of the chest is as good a place: mirrored, one finding makes two.
            ways = [-1] if random.random() < 0.5 else []
            crops.append(torch.cat(crop).flip(ways))
            heats.append(heat.flip(ways))
        known = torch.from_numpy(np.isfinite(status[[film for film, _ in at]]))
        found = loss(net(torch.stack(crops)), torch.stack(heats), known)
        optimiser.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def scores(net: Detector, films: Tensor) -> np.ndarray:
    """(F, 3): the highest logit of each finding on each film uint8 [F, 1, S, S], its rim left out."""
    inner = slice(RIM, -RIM)
    cells = (net(channels(part))[..., inner, inner] for part in films.split(32))
    return torch.cat([part.amax((2, 3)) for part in cells]).numpy()
