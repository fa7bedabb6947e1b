"""The form of what is published of a network, and the papers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A paper.

    Attributes:
        title: Its title.
        arxiv: Its number there.
    """

    title: str
    arxiv: str

    @property
    def url(self) -> str:
        """Where it is read."""
        return f'https://arxiv.org/abs/{self.arxiv.partition("v")[0]}'

    def table(self, name: str) -> str:
        """A table of it, as a source."""
        return f'arXiv {self.arxiv}, {name}'


# By family of networks.
PAPERS = {
    'iFormer': Paper('iFormer: Integrating ConvNet and Transformer for Mobile Application', '2501.15369v2'),
    'MoCoViT': Paper('MoCoViT: Mobile Convolutional Vision Transformer', '2205.12635'),
    'GhostNet': Paper('GhostNet: More Features from Cheap Operations', '1911.11907'),
    'MobileNetV3': Paper('Searching for MobileNetV3', '1905.02244'),
    'EfficientNet': Paper(
        'EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks', '1905.11946'
    ),
    'ResNet': Paper('Deep Residual Learning for Image Recognition', '1512.03385'),
    'PoolFormer': Paper('MetaFormer Is Actually What You Need for Vision', '2111.11418'),
    'EfficientFormer': Paper('EfficientFormer: Vision Transformers at MobileNet Speed', '2206.01191'),
    'EfficientFormerV2': Paper('Rethinking Vision Transformers for MobileNet Size and Speed', '2212.08059'),
    'FastViT': Paper(
        'FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization', '2303.14189'
    ),
    'RepViT': Paper('RepViT: Revisiting Mobile CNN From ViT Perspective', '2307.09283'),
    'ConvNeXt': Paper('A ConvNet for the 2020s', '2201.03545'),
    'PVTv2': Paper('PVT v2: Improved Baselines with Pyramid Vision Transformer', '2106.13797'),
    'Swin': Paper('Swin Transformer: Hierarchical Vision Transformer using Shifted Windows', '2103.14030'),
    'SwiftFormer': Paper(
        'SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile Vision '
        'Applications',
        '2303.15446',
    ),
}


@dataclass(frozen=True)
class Published:
    """The accuracy that somebody published of a network, and what stands beside it.

    Attributes:
        name: Of the network: ours, or timm's.
        family: What the network is a size of.
        value: In percent; None where none is known.
        source: Paper and table, or table and weights.
        distilled: Whether the network was trained with a teacher. Defaults to False.
        size: Side of the test images in pixels, where all are squares of it. Defaults to 224.
        alias: timm's name where it is another than ours. Defaults to None.
        parameters: In millions, with the classifier. Defaults to None.
        multiply_adds: For an image of that size, in millions. Defaults to None.
        latency: Of an image of that size on an iPhone 13, in ms. Defaults to None.
        epochs: Of training, if told. Defaults to None.
        logged: The value of more digits that the authors' log of the released file has. Defaults to None.
    """

    name: str
    family: str
    value: float | None
    source: str
    distilled: bool = False
    size: int | None = 224
    alias: str | None = None
    parameters: float | None = None
    multiply_adds: float | None = None
    latency: float | None = None
    epochs: int | None = None
    logged: float | None = None


@dataclass(frozen=True)
class Gain:
    """A difference that is published where its two sides are not, or not to us.

    Attributes:
        name: Of the network.
        over: Of the other one.
        metric: What is compared.
        value: In points.
        source: Where.
    """

    name: str
    over: str
    metric: str
    value: float
    source: str
