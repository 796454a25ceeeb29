"""The ways in which training code commonly turns pixels into numbers."""

from dataclasses import dataclass

from ortoscope_service.models.manifest import Channels, ColorOrder

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
_CAFFE_MEAN = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class Convention:
    """A mean, a standard deviation and an order of colours."""

    name: str
    """What people call it."""

    mean: Channels
    """Subtracted, red, green, blue, on pixels 0..255."""

    std: Channels
    """Divides, likewise."""

    color_order: ColorOrder
    """Order in which the channels are handed to the model."""

    def __str__(self) -> str:
        return f"{self.name}, {self.color_order.upper()}"

    def has_range_of(self, other: "Convention") -> bool:
        """Whether both give nearly the same numbers, but for the order of colours: (127.5, 127.5) and (127, 128)."""
        means = zip(self.mean, other.mean, strict=True)
        stds = zip(self.std, other.std, strict=True)
        return all(abs(a - b) <= 2 for a, b in means) and all(0.97 <= a / b <= 1.03 for a, b in stds)


def _gray(value: float) -> Channels:
    return (value, value, value)


_COLOR = (
    ("ImageNet mean and std", _IMAGENET_MEAN, _IMAGENET_STD),
    ("0..1", _gray(0), _gray(255)),
    ("-1..1", _gray(127.5), _gray(127.5)),
    ("(pixel - 127) / 128", _gray(127), _gray(128)),
    ("0..255", _gray(0), _gray(1)),
    ("ImageNet mean, not scaled (Caffe)", _CAFFE_MEAN, _gray(1)),
)
_GRAY = (
    ("0..1", _gray(0), _gray(255)),
    ("-1..1", _gray(127.5), _gray(127.5)),
    ("0..255", _gray(0), _gray(1)),
    ("MNIST mean and std", _gray(0.1307 * 255), _gray(0.3081 * 255)),
)


def conventions(channels: int, color_order: ColorOrder | None = None) -> tuple[Convention, ...]:
    """The common conventions for a model of 1 or 3 channels, the most common first.

    Args:
        channels: Channels of the input.
        color_order: Only this order of colours; both if None.
    """
    orders: tuple[ColorOrder, ...] = ("gray",) if channels == 1 else (color_order,) if color_order else ("rgb", "bgr")
    ranges = _GRAY if channels == 1 else _COLOR
    return tuple(Convention(name, mean, std, order) for order in orders for name, mean, std in ranges)
