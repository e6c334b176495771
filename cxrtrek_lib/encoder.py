"""The image encoder of the assembled checkpoints: one film in, a fixed row of image tokens out.

A small convolutional network registered as an ordinary Hugging Face vision tower, so that
`LlavaForConditionalGeneration` hosts it and `AutoModelForImageTextToText` reloads it. It is pretrained
on scene truth (`pretrain.py`) and frozen afterwards. Its tokens, in this order:

    49   grid tokens       7 x 7 regions of the film: features and where they lie
    K    finding tokens    one per (finding, side): features under its heat map, evidence, box, which side
    R    region tokens     one per anatomical region: its box
    1    film token        the whole film: features, projection, exposure

Finding and region tokens carry detector-style supervision: what the language model reads there, the
encoder was taught from exact boxes. The model card must say so.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from cxrtrek_lib.tables import EXPOSURES, SEVERITIES, SIDES

GRID = 7
CHANNELS = 128
GEOMETRY = 32
# What a token concludes: of a finding its presence, grade, box, and on which side it is.
SCALARS = 1 + len(SEVERITIES) + 4 + len(SIDES)
# One name against 168 channels of spread 1: at this size it is half of what tells two tokens apart.
NAME = (CHANNELS + GEOMETRY + SCALARS) ** 0.5
# What the encoder concludes (presence, grade, box, side) stands out against the 128 features it saw, or a
# small decoder learns from the noise of the features first.
CONCLUSION, FEATURE = 5.0, 0.15
# What is rare is far above its mean when it is there: a side must not drown the token's name.
RARE = 0.4
PROJECTIONS = ("PA", "AP")


class CxrEncoderConfig(PreTrainedConfig):
    """Which (finding, side) pairs and anatomical regions the tokens stand for.

    findings  names such as "pleural effusion|left" or "cardiomegaly", K of them
    regions   names such as "heart", R of them
    """

    model_type = "cxr_encoder"

    findings: list[str] | None = None
    regions: list[str] | None = None
    image_size: int = 224
    hidden_size: int = 0

    def __post_init__(self, **kwargs):
        self.findings = list(self.findings or [])
        self.regions = list(self.regions or [])
        self.hidden_size = CHANNELS + GEOMETRY + SCALARS + self.n_extra + 1
        super().__post_init__(**kwargs)

    @property
    def n_extra(self) -> int:
        """Tokens beside the grid: findings, regions, and one for the whole film."""
        return len(self.findings) + len(self.regions) + 1

    @property
    def pairs(self) -> tuple[list[int], list[int]]:
        """Places in `findings` of those that have sides: (left ones, right ones), P each."""
        left = [name for name in self.findings if name.endswith("|left")]
        left = [name for name in left if name.replace("|left", "|right") in self.findings]
        right = [name.replace("|left", "|right") for name in left]
        return [self.findings.index(name) for name in left], [self.findings.index(name) for name in right]

    @property
    def n_tokens(self) -> int:
        return GRID * GRID + self.n_extra


@dataclass
class FilmReading:
    """What the encoder says about a batch of films (logits, not probabilities).

    heat [B, K, 28, 28]; presence [B, K]; severity [B, K, 3]; side [B, P, 3]: where it is present, is it left,
    right or bilateral; finding_boxes [B, K, 4] and region_boxes [B, R, 4] as fractions of the film
    (x1, y1, x2, y2); projection [B, 2]; exposure [B, 3]
    """

    heat: Tensor
    presence: Tensor
    severity: Tensor
    side: Tensor
    finding_boxes: Tensor
    region_boxes: Tensor
    projection: Tensor
    exposure: Tensor

    def float(self) -> "FilmReading":
        """The same in fp32."""
        return FilmReading(**{name: value.float() for name, value in vars(self).items()})


def conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def blurred(image: Tensor, cell: int) -> Tensor:
    """Means over cells of so many pixels, interpolated in between: [B, 1, S, S], S a multiple of `cell`."""
    return F.interpolate(F.avg_pool2d(image, cell), scale_factor=float(cell), mode="bilinear")


def waves(values: Tensor, n_frequencies: int) -> Tensor:
    """Sine and cosine of positions in [0, 1] at octave frequencies: [..., n] -> [..., 2 n n_frequencies]."""
    frequencies = torch.pi * 2.0 ** torch.arange(n_frequencies, device=values.device, dtype=values.dtype)
    angles = values.unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class CxrEncoder(PreTrainedModel):
    """Film [B, 3, S, S] in [-1, 1] (three equal channels) -> image tokens [B, T, D].

    Tokens that were computed before (3-D input) pass through, so that the frozen encoder runs once per film.
    """

    config_class = CxrEncoderConfig
    main_input_name = "pixel_values"
    base_model_prefix = "cxr_encoder"
    _supports_sdpa = True

    def __init__(self, config: CxrEncoderConfig):
        super().__init__(config)
        n_findings, n_regions = len(config.findings), len(config.regions)
        self.fine = nn.Sequential(
            conv(2, 16, stride=2), conv(16, 32, stride=2), Residual(32), conv(32, 64, stride=2), Residual(64)
        )
        self.coarse = nn.Sequential(conv(64, CHANNELS, stride=2), Residual(CHANNELS), Residual(CHANNELS))
        self.lateral = nn.Conv2d(64, 64, 1)
        self.down = nn.Conv2d(CHANNELS, 64, 1)
        self.heat = nn.Sequential(conv(64 + 2, 64), nn.Conv2d(64, n_findings, 1))
        # Start from "nothing here": else the many empty cells swamp the first steps (Lin et al. 2017).
        nn.init.constant_(self.heat[-1].bias, -4.0)
        # Per finding: 64 fine + 128 coarse features under its heat map, where the map lies, its peak; and
        # the layout of the chest, since an enlarged heart is large only beside its lungs.
        self.evidence = nn.Linear(64 + CHANNELS + 5, 64)
        self.overview = nn.Linear(64, n_findings * 64)
        self.evidence_head = nn.Linear(64, 1 + len(SEVERITIES) + 4)
        # A second look, at mean and peak of every feature: it learns what a film shows before the maps can.
        self.glance = nn.Linear(2 * (64 + CHANNELS), n_findings)
        # Speaks for its side being the only one, and for both being meant.
        self.side_head = nn.Linear(64, 2)
        self.layout = nn.Sequential(
            nn.Conv2d(CHANNELS, 24, 1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24 * GRID * GRID, 64),
        )
        self.layout_head = nn.Sequential(nn.ReLU(), nn.Linear(64, 4 * n_regions))
        self.film_head = nn.Linear(CHANNELS + 64, len(PROJECTIONS) + len(EXPOSURES))
        # Set after pretraining (fit_standardisation): each token's own mean and spread over the films.
        width = CHANNELS + GEOMETRY + SCALARS
        self.register_buffer("token_mean", torch.zeros(config.n_tokens, width))
        self.register_buffer("token_scale", torch.ones(config.n_tokens, width))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own initialisation is right for convolutions with batch norm.
        pass

    def features(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen, before anything is concluded: fine [B, 64, 28, 28] and coarse [B, 128, 14, 14]."""
        film = pixel_values[:, :1]
        # The film less its own blur, in units of its local contrast, shows thin lines and small lesions (a
        # pleural edge, a lead, a nodule) as well in dark lung as in front of the heart, at any exposure.
        detail = film - blurred(film, 8)
        contrast = (blurred(detail.square(), 16) + 1e-4).sqrt()
        fine = self.fine(torch.cat([film, 0.5 * detail / contrast], 1))
        return fine, self.coarse(fine)

    def read(self, pixel_values: Tensor) -> tuple[FilmReading, Tensor, Tensor, Tensor]:
        """(reading, grid features [B, 128, 7, 7], finding features [B, K, 128], film features [B, 128])."""
        fine, coarse = self.features(pixel_values)
        merged = F.relu(self.lateral(fine) + F.interpolate(self.down(coarse), scale_factor=2.0))
        side = merged.shape[-1]
        axis = (torch.arange(side, device=merged.device, dtype=merged.dtype) + 0.5) / side
        # A convolution alone cannot tell left from right: give it the place of every cell.
        place = torch.stack(torch.meshgrid(axis, axis, indexing="xy")) * 2 - 1  # [2, 28, 28]: x, y
        heat = self.heat(torch.cat([merged, place.expand(len(merged), -1, -1, -1)], 1))  # [B, K, 28, 28]

        attention = heat.flatten(2).softmax(-1)  # [B, K, 784]
        under = torch.cat([merged, F.interpolate(coarse, scale_factor=2.0)], 1).flatten(2)  # [B, 192, 784]
        pooled = torch.einsum("bkp,bcp->bkc", attention, under)  # [B, K, 192]
        columns = attention.unflatten(-1, (side, side)).sum(-2)
        rows = attention.unflatten(-1, (side, side)).sum(-1)
        centre_x, centre_y = columns @ axis, rows @ axis
        spread_x = (columns @ axis.square() - centre_x.square()).clamp_min(1e-6).sqrt()
        spread_y = (rows @ axis.square() - centre_y.square()).clamp_min(1e-6).sqrt()
        seat = torch.stack([centre_x, centre_y, spread_x, spread_y, heat.flatten(2).amax(-1) * 0.3], -1)
        layout = self.layout(coarse)
        overview = self.overview(F.relu(layout)).unflatten(-1, (-1, 64))
        evidence = self.evidence(torch.cat([pooled, seat], -1)) + overview
        answers = self.evidence_head(F.relu(evidence))  # [B, K, 1 + 3 + 4]
        glance = self.glance(
            torch.cat([f(x, (2, 3)) for x in (merged, coarse) for f in (torch.mean, torch.amax)], 1)
        )

        presence = answers[..., 0] + glance
        centre = torch.stack([centre_x, centre_y, centre_x, centre_y], -1)
        film_features = coarse.mean((2, 3))
        film = self.film_head(torch.cat([film_features, layout], -1))
        reading = FilmReading(
            heat=heat,
            presence=presence,
            severity=answers[..., 1:4],
            side=self.side(presence, evidence),
            finding_boxes=centre + answers[..., 4:],
            region_boxes=self.layout_head(layout).unflatten(-1, (-1, 4)) + 0.5,
            projection=film[..., :2],
            exposure=film[..., 2:],
        )
        return reading, F.avg_pool2d(coarse, 2), pooled[..., 64:], film_features

    def side(self, presence: Tensor, evidence: Tensor) -> Tensor:
        """Logits of left, right and bilateral, [B, P, 3], from presence [B, K] and evidence [B, K, 64].

        Were both sides independent, the log-odds of presence l and r would make them l, r and l + r; what the
        evidence adds is learnt. Presence is only read here: taught by this too, it came later (mean AUROC of
        films kept apart after 3 passes: 0.83, else 0.91).
        """
        left, right = self.config.pairs
        scores = self.side_head(F.relu(evidence)) + presence.detach().unsqueeze(-1)
        alone, beside = scores.unbind(-1)
        return torch.stack([alone[:, left], alone[:, right], beside[:, left] + beside[:, right]], -1)

    def raw_tokens(self, pixel_values: Tensor) -> Tensor:
        """Tokens before standardisation, without names: [B, T, 128 + 32 + 11]."""
        reading, grid, finding_features, film_features = self.read(pixel_values)
        n, device, dtype = pixel_values.shape[0], grid.device, grid.dtype
        axis = (torch.arange(GRID, device=device, dtype=dtype) + 0.5) / GRID
        where = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).flatten(0, 1)  # [49, 2]: x, y

        def token(features: Tensor, geometry: Tensor, scalars: Tensor) -> Tensor:
            return torch.cat(
                [
                    F.pad(features, (0, CHANNELS - features.shape[-1])),
                    F.pad(geometry, (0, GEOMETRY - geometry.shape[-1])),
                    F.pad(scalars, (0, SCALARS - scalars.shape[-1])),
                ],
                -1,
            )

        none = grid.new_zeros
        n_regions = reading.region_boxes.shape[1]
        left, right = self.config.pairs
        absent = (-reading.presence).sigmoid()
        present = 1 - absent[:, left] * absent[:, right]
        # Chances, all 0 where it is absent: what logits say of the side of something absent is noise.
        sides = none(n, len(self.config.findings), len(SIDES))
        sides[:, left] = sides[:, right] = reading.side.softmax(-1) * present.unsqueeze(-1)
        finding_scalars = torch.cat(
            [reading.presence.unsqueeze(-1), reading.severity, reading.finding_boxes, sides], -1
        )
        film_scalars = torch.cat([reading.projection, reading.exposure], -1).unsqueeze(1)
        return torch.cat(
            [
                token(
                    grid.flatten(2).transpose(1, 2),
                    waves(where, 8).expand(n, -1, -1),
                    none(n, GRID * GRID, 0),
                ),
                token(finding_features, waves(reading.finding_boxes.clamp(0, 1), 4), finding_scalars),
                token(
                    none(n, n_regions, 0), waves(reading.region_boxes.clamp(0, 1), 4), reading.region_boxes
                ),
                token(film_features.unsqueeze(1), none(n, 1, 0), film_scalars),
            ],
            1,
        )

    @torch.no_grad()
    def fit_standardisation(self, films: Iterable[Tensor]) -> None:
        """Give every token channel mean 0 and spread 1 over the training films (batches [B, 3, S, S])."""
        tokens = torch.cat([self.raw_tokens(batch) for batch in films])
        self.token_mean.copy_(tokens.mean(0))
        spread = tokens.std(0)
        # Channels that never vary (grid positions, padding) keep their value instead of being divided by 0.
        constant = spread < 1e-4
        self.token_mean[constant] = 0.0
        self.token_scale.copy_(torch.where(constant, torch.ones_like(spread), spread))

    def names(self) -> Tensor:
        """What tells tokens apart, [T, 1 + n_extra]: one name for the grid, one for each token beside it."""
        names = torch.zeros(self.config.n_tokens, self.config.n_extra + 1)
        grid = GRID * GRID
        names[:grid, 0] = NAME
        names[grid:, 1:] = NAME * torch.eye(self.config.n_extra)
        return names

    def forward(self, pixel_values: Tensor, **kwargs) -> BaseModelOutput:
        if pixel_values.ndim == 3:  # tokens computed before
            return BaseModelOutput(last_hidden_state=pixel_values, hidden_states=(pixel_values,))
        tokens = (self.raw_tokens(pixel_values) - self.token_mean) / self.token_scale
        tokens[..., -SCALARS:] *= CONCLUSION
        tokens[..., -len(SIDES) :] *= RARE
        tokens[..., :-SCALARS] *= FEATURE
        names = self.names().to(tokens)
        tokens = torch.cat([tokens, names.expand(len(tokens), -1, -1)], -1)
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


AutoConfig.register(CxrEncoderConfig.model_type, CxrEncoderConfig)
AutoModel.register(CxrEncoderConfig, CxrEncoder)
